"""Low-rank adapters are trained, active, saved, merged, and small."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import scvi
import torch
from peft import PeftModel

import sfm
from sfm.datasets import toy_cells, toy_model
from sfm.model import CausalCellModel, MaskedCellModel
from sfm.nn import BACKBONES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData

TRAIN = {"batch_size": 16, "accelerator": "cpu", "enable_progress_bar": False, "plan_kwargs": {"lr": 1e-2}}


def without_adapters(model: MaskedCellModel) -> np.ndarray:
    model.module.network.disable_adapters()
    try:
        return model.get_latent_representation()
    finally:
        model.module.network.enable_adapters()


def adapters(model: MaskedCellModel) -> dict[str, torch.nn.Parameter]:
    return {name: weight for name, weight in model.module.network.named_parameters() if ".lora_" in name}


@pytest.fixture
def adata() -> AnnData:
    return toy_cells(60)


@pytest.fixture
def make(adata: AnnData) -> Callable[..., MaskedCellModel]:
    """The same pretrained model with new adapters."""
    pretrained = toy_model("bins")

    def make(**lora: object) -> MaskedCellModel:
        scvi.settings.seed = 0
        return MaskedCellModel.from_pretrained(pretrained, adata, lora={"r": 4, **lora})

    return make


def test_new_adapters_change_nothing(make: Callable[..., MaskedCellModel], adata: AnnData) -> None:
    plain = MaskedCellModel.from_pretrained(toy_model("bins"), adata)
    np.testing.assert_array_equal(make().get_latent_representation(), plain.get_latent_representation())


@pytest.mark.parametrize("targets", ["attention", "all-linear", ["query", "value"]], ids=str)
def test_adapters_are_trained_and_active_after_loading(
    make: Callable[..., MaskedCellModel], adata: AnnData, targets: str | list[str], tmp_path: Path
) -> None:
    model = make(target_modules=targets)
    before = model.get_latent_representation()
    weights = {name: weight.clone() for name, weight in model.module.network.named_parameters()}
    model.train(max_epochs=2, **TRAIN)

    trained = {n for n, w in model.module.network.named_parameters() if not torch.equal(w, weights[n])}
    assert trained == set(adapters(model))
    vectors = model.get_latent_representation()
    assert np.abs(vectors - before).max() > 1e-3
    np.testing.assert_array_equal(without_adapters(model), before)

    model.save(str(tmp_path / "saved"))
    loaded = MaskedCellModel.load(str(tmp_path / "saved"), adata=adata, accelerator="cpu")
    assert not loaded.module.network.training
    np.testing.assert_allclose(loaded.get_latent_representation(), vectors, atol=1e-6)
    np.testing.assert_allclose(without_adapters(loaded), before, atol=1e-6)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_adapter_gets_a_gradient(backbone: str, adata: AnnData) -> None:
    MaskedCellModel.setup_anndata(adata, max_length=32)
    scvi.settings.seed = 0
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = MaskedCellModel(adata, backbone=backbone, lora={"r": 2, "init_lora_weights": False}, **sizes)
    minibatch = {"input_ids": torch.randint(4, 100, (4, 20)), "attention_mask": torch.ones(4, 20, dtype=torch.long)}
    model.module.train()(minibatch)[2].loss.backward()
    gradients = {name: weight.grad for name, weight in adapters(model).items()}
    assert len(gradients) >= 2 * 2 * 2  # two matrices of two linear layers in two layers, at least
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.any()] == []


def test_merging_keeps_the_vectors(make: Callable[..., MaskedCellModel], adata: AnnData, tmp_path: Path) -> None:
    model = make()
    model.train(max_epochs=2, **TRAIN)
    vectors = model.get_latent_representation()
    model.save_pretrained(tmp_path / "merged")
    np.testing.assert_array_equal(model.get_latent_representation(), vectors)  # saving leaves the model alone
    sfm.tl.embed(adata, tmp_path / "merged")
    np.testing.assert_allclose(adata.obsm["X_sfm"], vectors, atol=1e-5)

    model.merge_adapter()
    assert not adapters(model)
    np.testing.assert_allclose(model.get_latent_representation(), vectors, atol=1e-5)
    model.save(str(tmp_path / "saved"))
    loaded = MaskedCellModel.load(str(tmp_path / "saved"), adata=adata, accelerator="cpu")
    np.testing.assert_allclose(loaded.get_latent_representation(), vectors, atol=1e-5)
    loaded.train(max_epochs=1, **TRAIN)  # all weights again
    assert all(weight.requires_grad for weight in loaded.module.network.parameters())


# peft asks transformers for an attribute that it has renamed
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_alone_are_small_and_fit_the_pretrained_model(
    make: Callable[..., MaskedCellModel], tmp_path: Path
) -> None:
    model = make()
    model.train(max_epochs=2, **TRAIN)
    model.save_adapter(tmp_path / "adapter")
    model.save_pretrained(tmp_path / "whole")
    sizes = [
        (tmp_path / name).stat().st_size for name in ("adapter/adapter_model.safetensors", "whole/model.safetensors")
    ]
    assert sizes[0] < 0.05 * sizes[1]

    other = make()
    other.load_adapter(tmp_path / "adapter")
    np.testing.assert_allclose(other.get_latent_representation(), model.get_latent_representation(), atol=1e-6)
    # And peft itself reads the directory.
    pretrained = toy_model("bins").model
    by_peft = PeftModel.from_pretrained(pretrained, tmp_path / "adapter")
    lora = {name.removeprefix("base_model.model."): weight for name, weight in by_peft.named_parameters()}
    for name, weight in adapters(model).items():
        assert torch.equal(lora[name], weight)


def test_causal_model_takes_adapters(adata: AnnData, tmp_path: Path) -> None:
    CausalCellModel.setup_anndata(adata, max_length=32)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = CausalCellModel(adata, lora={"r": 2}, **sizes)
    model.train(max_epochs=1, **TRAIN)
    assert np.abs(model.get_latent_representation() - without_adapters(model)).max() > 1e-5
    model.save(str(tmp_path / "saved"))
    loaded = CausalCellModel.load(str(tmp_path / "saved"), adata=adata, accelerator="cpu")
    np.testing.assert_allclose(loaded.get_latent_representation(), model.get_latent_representation(), atol=1e-6)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        pytest.param({"target_modules": ["no_such_layer"]}, "called .*no_such_layer.* It has .*'query'", id="unknown"),
        pytest.param({"target_modules": "attn"}, "Unknown target_modules='attn'", id="misspelt"),
    ],
)
def test_bad_settings_are_named(make: Callable[..., MaskedCellModel], lora: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**lora)


def test_models_without_adapters_say_so(adata: AnnData, tmp_path: Path) -> None:
    model = MaskedCellModel.from_pretrained(toy_model("rank"), adata)
    for call in (model.merge_adapter, lambda: model.save_adapter(tmp_path), lambda: model.load_adapter(tmp_path)):
        with pytest.raises(ValueError, match="has no adapters. Pass lora="):
            call()
