"""Precision is what the hardware has, what runs is what is said, and the matrix settings come back."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from sfm.data import encode_cells
from sfm.datasets import toy_cells, toy_model
from sfm.inference import embed_tokens
from sfm.inference._precision import choose_precision, has_bf16, onednn_is_exact
from sfm.inference._prepare import in_eval_mode, prepared

if TYPE_CHECKING:
    from sfm.checkpoints import PretrainedCells
    from sfm.tokenizers import TokenizedCells

CPU = torch.device("cpu")


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 also where the processor has no units for it, which is slow and gives the same numbers."""
    monkeypatch.setattr("sfm.inference._precision.EMULATE_BF16", True)


def tokens(pretrained: PretrainedCells) -> TokenizedCells:
    return encode_cells(toy_cells(60), pretrained.tokenizer, model_name="toy").cells


def vectors(pretrained: PretrainedCells, **options: Any) -> np.ndarray:
    return embed_tokens(pretrained.model, tokens(pretrained), pad_id=0, device="cpu", **options)


def nearest(embedding: np.ndarray, n_neighbors: int) -> np.ndarray:
    distances = np.linalg.norm(embedding[:, None] - embedding, axis=2)
    np.fill_diagonal(distances, np.inf)
    return np.sort(distances.argsort(axis=1)[:, :n_neighbors], axis=1)


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_fp32_needs_nothing(precision: Any) -> None:
    assert choose_precision(precision, "cpu") == "fp32"


@pytest.mark.skipif(has_bf16(CPU), reason="this processor has bf16 units")
def test_bf16_without_hardware_is_fp32_with_one_warning() -> None:
    pretrained = toy_model()
    with pytest.warns(UserWarning, match=r"precision='bf16' needs hardware that device 'cpu'") as caught:
        half = vectors(pretrained, precision="bf16")
    assert len(caught) == 1
    assert np.array_equal(half, vectors(pretrained, precision="fp32"))


@pytest.mark.skipif(not has_bf16(CPU), reason="this processor has no bf16 units")
def test_bf16_runs_where_the_hardware_has_it() -> None:
    assert choose_precision("bf16", CPU) == "bf16"


@pytest.mark.usefixtures("emulated")
def test_what_was_chosen_is_not_chosen_again() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_precision(choose_precision("bf16", "cpu"), "cpu") == "bf16"


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("tokenizer", ["rank", "bins", "values"])
def test_bf16_is_close_to_fp32(tokenizer: Any) -> None:
    pretrained = toy_model(tokenizer)
    single, half = vectors(pretrained, precision="fp32"), vectors(pretrained, precision="bf16")
    cosine = (single * half).sum(axis=1) / np.linalg.norm(single, axis=1) / np.linalg.norm(half, axis=1)
    assert cosine.min() >= 0.9999
    assert half.dtype == np.float32
    assert not np.array_equal(single, half)  # it was computed in another precision indeed


@pytest.mark.usefixtures("emulated")
@pytest.mark.slow
def test_neighbours_of_a_trained_model_agree_in_bf16(shared_data: Any) -> None:
    import anndata as ad

    import sfm

    adata = ad.read_h5ad(shared_data / "pbmc3k.h5ad")[:60].copy()
    pretrained = sfm.load("sfm-mini")
    settings = {**pretrained.tokenizer.to_dict(), "max_length": 256}
    tokenizer = type(pretrained.tokenizer).from_dict(settings, pretrained.vocabulary)
    cells = encode_cells(adata, tokenizer, model_name="sfm-mini").cells
    single, half = (
        embed_tokens(pretrained.model, cells, pad_id=0, precision=p, device="cpu") for p in ("fp32", "bf16")
    )
    same = [np.intersect1d(a, b).size / 10 for a, b in zip(nearest(single, 10), nearest(half, 10), strict=True)]
    assert np.mean(same) >= 0.99


def test_settings_come_back_even_after_an_error() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(), torch.nn.Dropout())
    model[1].eval()  # a part that somebody froze
    before = torch.get_float32_matmul_precision()

    def fail() -> None:
        with prepared(model, CPU, "fp32"):
            assert not any(module.training for module in model.modules())
            assert torch.get_float32_matmul_precision() == ("medium" if onednn_is_exact() else before)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [module.training for module in model] == [True, False, True]
    assert torch.get_float32_matmul_precision() == before
    assert torch.is_grad_enabled()


def test_preparing_twice_changes_nothing() -> None:
    model = torch.nn.Linear(2, 2)
    with in_eval_mode(model, CPU):
        with prepared(model, CPU, "fp32"):
            assert torch.is_inference_mode_enabled()
        assert not model.training
    assert model.training


@pytest.mark.skipif(not onednn_is_exact(), reason="another matrix product is used on this processor")
def test_fast_products_are_float32() -> None:
    pretrained = toy_model()
    fast = vectors(pretrained)
    with torch.inference_mode(), in_eval_mode(pretrained.model, CPU):
        cells = tokens(pretrained)
        plain = [
            pretrained.model.encode(cells[i].input_ids[None], cells[i].attention_mask[None]) for i in range(len(cells))
        ]
    np.testing.assert_allclose(fast, torch.cat(plain).numpy(), atol=1e-5, rtol=0)
