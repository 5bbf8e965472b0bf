from __future__ import annotations

import pickle
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scvi
import torch

import sfm
from sfm.checkpoints._weights import weights_hash
from sfm.datasets import toy_cells, toy_model
from sfm.model import MaskedCellModel

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TRAIN = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(params=["rank", "bins", "values"])
def model(request: pytest.FixtureRequest) -> MaskedCellModel:
    adata = toy_cells(60)
    MaskedCellModel.setup_anndata(adata, tokenizer=request.param, max_length=64)
    scvi.settings.seed = 0
    return MaskedCellModel(adata, **SIZES)


def shuffled(adata: ad.AnnData) -> ad.AnnData:
    """The same cells without what setup_anndata wrote, genes in another order and named by Ensembl id."""
    fresh = ad.AnnData(adata.X.copy(), obs=adata.obs[["cell_type"]], var=adata.var)
    fresh.var_names = fresh.var["ensembl_id"]
    return fresh[:, np.random.default_rng(0).permutation(fresh.n_vars)].copy()


def test_life_cycle(model: MaskedCellModel, tmp_path: Path) -> None:
    model.train(max_epochs=2, **TRAIN)
    assert {"train_loss", "validation_loss", "elbo_validation"} <= set(model.history)
    assert len(model.history["validation_loss"]) == 2
    vectors = model.get_latent_representation()
    assert vectors.shape == (60, 16)
    assert vectors.dtype == np.float32

    model.save(str(tmp_path / "saved"))
    loaded = MaskedCellModel.load(str(tmp_path / "saved"), adata=shuffled(model.adata), accelerator="cpu")
    assert loaded.is_trained
    np.testing.assert_allclose(loaded.get_latent_representation(), vectors, atol=1e-5)
    loaded.train(max_epochs=1, **TRAIN)
    assert len(loaded.history["validation_loss"]) == 3


def test_load_with_saved_data_and_without(model: MaskedCellModel, tmp_path: Path) -> None:
    model.train(max_epochs=1, **TRAIN)
    vectors = model.get_latent_representation()
    model.save(str(tmp_path / "saved"), save_anndata=True, prefix="toy_")
    with_data = MaskedCellModel.load(str(tmp_path / "saved"), prefix="toy_", accelerator="cpu")
    np.testing.assert_allclose(with_data.get_latent_representation(), vectors, atol=1e-5)
    without = MaskedCellModel.load(str(tmp_path / "saved"), adata=False, prefix="toy_", accelerator="cpu")
    np.testing.assert_allclose(without.get_latent_representation(shuffled(model.adata)), vectors, atol=1e-5)
    with pytest.raises(ValueError, match="loaded without data. Pass adata="):
        without.get_latent_representation()


def test_new_data_are_not_written_to(model: MaskedCellModel) -> None:
    model.train(max_epochs=1, **TRAIN)
    query = shuffled(model.adata)
    model.get_latent_representation(query)
    assert not query.obsm
    assert not query.uns
    assert list(query.obs) == ["cell_type"]


def test_indices(model: MaskedCellModel) -> None:
    model.train(max_epochs=1, **TRAIN)
    vectors = model.get_latent_representation()
    rows = [5, 3, 40]
    np.testing.assert_allclose(model.get_latent_representation(indices=rows, batch_size=2), vectors[rows], atol=1e-5)
    mask = np.arange(60) % 2 == 0
    np.testing.assert_allclose(model.get_latent_representation(indices=mask), vectors[mask], atol=1e-5)


def test_save_pretrained_and_embed(model: MaskedCellModel, tmp_path: Path) -> None:
    model.train(max_epochs=1, **TRAIN)
    vectors = model.get_latent_representation()
    model.save_pretrained(tmp_path)
    adata = shuffled(model.adata)
    for source in (model, tmp_path, sfm.load(tmp_path)):
        sfm.tl.embed(adata, source)
        np.testing.assert_allclose(adata.obsm["X_sfm"], vectors, atol=1e-5)

    again = MaskedCellModel.from_pretrained(tmp_path, adata)
    np.testing.assert_allclose(again.get_latent_representation(), vectors, atol=1e-5)
    assert weights_hash(again.module.network) == weights_hash(model.module.network)
    again.train(max_epochs=1, **TRAIN)
    assert weights_hash(again.module.network) != weights_hash(model.module.network)


def test_from_pretrained_takes_what_load_takes() -> None:
    adata = toy_cells(30)
    pretrained = toy_model("bins")
    model = MaskedCellModel.from_pretrained(pretrained, adata)
    sfm.tl.embed(adata, pretrained)
    np.testing.assert_allclose(model.get_latent_representation(), adata.obsm["X_sfm"], atol=1e-5)


def test_seed_decides_the_result() -> None:
    def losses(seed: int) -> np.ndarray:
        adata = toy_cells(60)
        MaskedCellModel.setup_anndata(adata, max_length=64)
        scvi.settings.seed = seed
        model = MaskedCellModel(adata, **SIZES)
        model.train(max_epochs=2, **TRAIN)
        return model.history["validation_loss"].to_numpy(dtype=float)

    first, same, other = losses(1), losses(1), losses(2)
    assert np.array_equal(first, same)
    assert not np.allclose(first, other)


def test_training_lowers_the_loss() -> None:
    adata = toy_cells(200)
    MaskedCellModel.setup_anndata(adata, max_length=64)
    scvi.settings.seed = 0
    model = MaskedCellModel(adata, **SIZES)
    model.train(max_epochs=15, plan_kwargs={"lr": 5e-3}, **TRAIN)
    loss = model.history["validation_loss"].to_numpy(dtype=float).ravel()
    assert loss[-1] < 0.97 * loss[0]


def test_early_stopping(model: MaskedCellModel) -> None:
    frozen = {"lr": 0.0}
    options = {"early_stopping": True, "early_stopping_patience": 2, "early_stopping_min_delta": 0.01}
    model.train(max_epochs=20, plan_kwargs=frozen, **options, **TRAIN)
    assert len(model.history["elbo_validation"]) < 6


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"train_size": 1.0}, id="no validation cells"),
        pytest.param({"precision": "bf16-mixed"}, id="bf16"),
        pytest.param({"accumulate_grad_batches": 2}, id="accumulation"),
        pytest.param({"max_epochs": -1, "max_steps": 3}, id="steps"),
        pytest.param({"batch_size": None}, id="scvi's minibatch size"),
    ],
)
def test_options_of_the_trainer(options: dict[str, object]) -> None:
    adata = toy_cells(60)
    MaskedCellModel.setup_anndata(adata, max_length=64)
    model = MaskedCellModel(adata, **SIZES)
    model.train(**{"max_epochs": 1, **options}, **TRAIN)
    assert np.isfinite(model.history["train_loss"].to_numpy(dtype=float)).all()
    assert ("validation_loss" in model.history) == (options.get("train_size") != 1.0)
    assert np.isfinite(model.get_latent_representation()).all()


def test_default_number_of_epochs() -> None:
    adata = toy_cells(20)
    MaskedCellModel.setup_anndata(adata, max_length=16)
    model = MaskedCellModel(adata, **SIZES)
    model.train(**TRAIN)
    assert len(model.history["train_loss"]) == 20


def test_two_set_ups_of_one_adata_do_not_disturb_each_other() -> None:
    adata = toy_cells(30)
    MaskedCellModel.setup_anndata(adata, tokenizer="rank", max_length=64)
    first = MaskedCellModel(adata, **SIZES)
    first.train(max_epochs=1, **TRAIN)
    before = first.get_latent_representation()
    MaskedCellModel.setup_anndata(adata, tokenizer="bins", max_length=32)
    MaskedCellModel(adata, **SIZES)
    np.testing.assert_array_equal(first.get_latent_representation(), before)


def test_categories_are_registered() -> None:
    adata = toy_cells(30)
    MaskedCellModel.setup_anndata(adata, max_length=64, labels_key="cell_type")
    model = MaskedCellModel(adata, **SIZES)
    assert model.summary_stats["n_labels"] == 3
    model.view_anndata_setup()


def test_setup_refuses_what_is_not_counts() -> None:
    adata = toy_cells(30)
    adata.X.data *= 0.5
    with pytest.raises(ValueError, match=r"adata.X holds"):
        MaskedCellModel.setup_anndata(adata)
    assert not adata.obsm
    assert not adata.uns


def test_repr_names_the_model(model: MaskedCellModel, capsys: pytest.CaptureFixture[str]) -> None:
    repr(model)
    assert "MaskedCellModel: bert, 1 layers, 16 dims" in capsys.readouterr().out


class Exploit:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_load_never_runs_a_pickle(tmp_path: Path, how: str) -> None:
    content = {"model_state_dict": {}, "attr_dict": Exploit(tmp_path / "ran")}
    if how == "torch":
        torch.save(content, tmp_path / "model.pt")
    else:
        (tmp_path / "model.pt").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"model.pt' was not opened"):
        MaskedCellModel.load(str(tmp_path), adata=False)
    assert not (tmp_path / "ran").exists()


def test_load_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Did not find .*model.pt"):
        MaskedCellModel.load(str(tmp_path), adata=False)
