"""The life cycle of classifiers: training, predictions, saving, and new labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from scipy import sparse

import sfm
from sfm.datasets import toy_cells, toy_model
from sfm.model import CausalCellModel, CellClassifier, MaskedCellModel

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TRAIN: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "plan_kwargs": {"lr": 1e-2}}
TYPES = ["type 0", "type 1", "type 2"]


def make(adata: AnnData | None = None, *, setup: dict[str, Any] | None = None, **options: Any) -> CellClassifier:
    adata = toy_cells(120) if adata is None else adata
    CellClassifier.setup_anndata(adata, labels_key="cell_type", max_length=32, **(setup or {}))
    scvi.settings.seed = 0
    return CellClassifier(adata, **{**SIZES, **options})


def trained(adata: AnnData | None = None, *, max_epochs: int = 4, **options: Any) -> CellClassifier:
    model = make(adata, **options)
    model.train(max_epochs=max_epochs, **TRAIN)
    return model


def logits_of(model: CellClassifier, adata: AnnData | None = None) -> np.ndarray:
    rows = np.arange((model.adata if adata is None else adata).n_obs)
    return model._logits(adata, rows, batch_size=None)[0]


@pytest.fixture(scope="module")
def model() -> CellClassifier:
    """A classifier that has learnt the toy types; tests leave it as it is."""
    return trained(max_epochs=6)


@pytest.fixture
def query() -> AnnData:
    """New cells, genes in another order and named by Ensembl id."""
    adata = toy_cells(90, seed=0)[60:].copy()
    adata.var_names = adata.var["ensembl_id"]
    return adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()


def test_training_learns_the_types_and_reports_metrics_in_each_epoch(model: CellClassifier) -> None:
    history = model.history
    for name in ("validation_loss", "validation_accuracy", "validation_macro_f1", "validation_calibration_error"):
        assert len(history[name]) == 6
        assert np.isfinite(history[name].to_numpy(dtype=float)).all()
    accuracy = history["validation_accuracy"].to_numpy(dtype=float).ravel()
    assert accuracy[0] < accuracy[-1] == 1
    assert (model.predict() == model.adata.obs["cell_type"]).mean() > 0.98


def test_logged_metrics_are_those_of_the_validation_cells() -> None:
    adata = toy_cells(120)
    adata.obs["cell_type"] = np.roll(adata.obs["cell_type"], 1)  # nothing to learn, so that some are wrong
    model = make(adata)
    model.train(max_epochs=2, batch_size=5, train_size=0.5, **TRAIN)  # several validation minibatches
    report = model.classification_report()
    assert 0.1 < report.attrs["accuracy"] < 1
    for name in ("accuracy", "macro_f1"):
        assert model.history[f"validation_{name}"].iloc[-1].item() == pytest.approx(report.attrs[name], abs=1e-6)
    rows = model.validation_indices
    logits = torch.from_numpy(logits_of(model)[rows])
    codes = torch.from_numpy(model.adata.obs["_scvi_labels"].to_numpy()[rows])
    loss = torch.nn.functional.cross_entropy(logits, codes).item()
    assert model.history["validation_loss"].iloc[-1].item() == pytest.approx(loss, rel=1e-4)
    assert model.history["elbo_validation"].iloc[-1].item() == pytest.approx(loss, rel=1e-4)


def test_predictions_are_named_and_in_order(model: CellClassifier) -> None:
    names = model.adata.obs_names
    hard, soft = model.predict(), model.predict(soft=True)
    assert isinstance(hard, pd.Series)
    assert list(hard.index) == list(soft.index) == list(names)
    assert list(soft.columns) == model.labels == TYPES
    assert set(soft.dtypes) == {np.dtype("float32")}
    np.testing.assert_allclose(soft.sum(axis=1), 1, atol=1e-6)
    assert list(soft.idxmax(axis=1)) == list(hard)
    rows = [7, 3, 50]
    pd.testing.assert_series_equal(model.predict(indices=rows), hard.iloc[rows])
    mask = np.arange(len(names)) % 3 == 0
    pd.testing.assert_frame_equal(model.predict(indices=mask, soft=True), soft[mask], atol=1e-5)
    assert model.predict(indices=[]).empty


def test_a_prediction_depends_on_its_cell_alone(model: CellClassifier, query: AnnData) -> None:
    whole = model.predict(query, soft=True)
    order = np.random.default_rng(1).permutation(query.n_obs)
    for part, batch_size in [(query[order].copy(), 4), (query[:5].copy(), None), (query[[17]].copy(), 1)]:
        some = model.predict(part, soft=True, batch_size=batch_size)
        np.testing.assert_allclose(some, whole.loc[part.obs_names], atol=1e-5)


def test_new_data_are_not_written_to_and_need_no_labels(model: CellClassifier, query: AnnData) -> None:
    del query.obs["cell_type"]
    model.predict(query)
    assert not query.obsm
    assert not query.uns
    assert not len(query.obs.columns)


def test_cells_without_genes_get_a_label_and_finite_probabilities(model: CellClassifier) -> None:
    adata = toy_cells(6)
    adata.X = sparse.csr_matrix(adata.X.toarray() * (np.arange(6) != 2)[:, None])
    soft = model.predict(adata, soft=True)
    assert np.isfinite(soft.to_numpy()).all()
    np.testing.assert_allclose(soft.sum(axis=1), 1, atol=1e-6)


def test_probabilities_are_calibrated_by_the_temperature_on_held_out_cells(model: CellClassifier) -> None:
    network = model.module.network
    temperature = float(network.temperature)
    assert temperature != 1
    expected = torch.from_numpy(logits_of(model) / temperature).softmax(dim=1)
    np.testing.assert_allclose(model.predict(soft=True), expected, atol=1e-5)


def test_the_network_knows_cells_that_are_unlike_its_training_cells(model: CellClassifier) -> None:
    network = model.module.network
    assert network.distance.is_fitted
    with torch.inference_mode():
        own = network.distance(torch.from_numpy(model.get_latent_representation()))
        strange = network.distance(torch.from_numpy(model.get_latent_representation()) + 10)
    assert own.mean() < 0.9
    assert (strange > 0.99).all()


def test_without_validation_cells_nothing_is_calibrated() -> None:
    model = make()
    model.train(max_epochs=1, train_size=1.0, **TRAIN)
    assert float(model.module.network.temperature) == 1
    assert model.module.network.distance.is_fitted
    with pytest.raises(ValueError, match=r"no validation cells. Pass indices="):
        model.classification_report()
    assert model.classification_report(indices=[0, 1, 2]).attrs["n"] == 3


def test_saving_keeps_everything(model: CellClassifier, query: AnnData, tmp_path: Path) -> None:
    soft, vectors = model.predict(query, soft=True), model.get_latent_representation(query)
    model.save(str(tmp_path / "saved"), save_anndata=True)
    for adata in (None, query.copy(), False):
        loaded = CellClassifier.load(str(tmp_path / "saved"), adata=adata, accelerator="cpu")
        assert loaded.labels == TYPES
        np.testing.assert_allclose(loaded.predict(query, soft=True), soft, atol=1e-6)
        np.testing.assert_allclose(loaded.get_latent_representation(query), vectors, atol=1e-5)
        assert loaded.module.network.distance.is_fitted
        if adata is None:
            assert loaded.classification_report().attrs == model.classification_report().attrs
    with pytest.raises(ValueError, match="trained on other cells than it was loaded with"):
        CellClassifier.load(str(tmp_path / "saved"), adata=query, accelerator="cpu").classification_report()


def test_directory_has_labels_temperature_and_distance(model: CellClassifier, query: AnnData, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    network = sfm.load(tmp_path).model
    assert network.config.id2label == dict(enumerate(TYPES))
    assert float(network.temperature) == float(model.module.network.temperature)
    assert network.distance.is_fitted
    for source in (tmp_path, model, sfm.load(tmp_path)):
        again = CellClassifier.from_pretrained(source, toy_cells(30), labels_key="cell_type")
        assert again.labels == TYPES
        np.testing.assert_allclose(again.predict(query, soft=True), model.predict(query, soft=True), atol=1e-6)


@pytest.mark.parametrize("source", ["masked", "causal", "values", "bundled"])
def test_any_pretrained_model_gives_the_body(source: str) -> None:
    n = 24 if source == "bundled" else 60  # the bundled model is not tiny
    adata = toy_cells(n)
    pretrained: Any
    match source:
        case "masked":
            pretrained = toy_model()
        case "causal":
            CausalCellModel.setup_anndata(adata, max_length=32)
            pretrained = CausalCellModel(adata, **SIZES)
        case "values":
            MaskedCellModel.setup_anndata(adata, tokenizer="values", max_length=32)
            pretrained = MaskedCellModel(adata, objective="values", **SIZES)
        case _:
            pretrained = None
    model = CellClassifier.from_pretrained(pretrained, adata, labels_key="cell_type")
    expected = toy_cells(n)
    sfm.tl.embed(expected, pretrained)
    np.testing.assert_allclose(model.get_latent_representation(), expected.obsm["X_sfm"], atol=1e-5)
    with pytest.raises(RuntimeError, match="labels would be random. Call `train` first"):
        model.predict()
    model.train(max_epochs=1, **TRAIN)
    assert model.predict(soft=True).shape == (n, 3)


def test_untrained_models_do_not_predict(tmp_path: Path) -> None:
    untrained = make()
    for use in (untrained.predict, lambda: sfm.tl.annotate(toy_cells(20), untrained)):
        with pytest.raises(RuntimeError, match="head of this CellClassifier is new, and its labels would be random"):
            use()
    with pytest.warns(UserWarning, match="gets random labels. Call `train` first"):
        untrained.save_pretrained(tmp_path / "untrained")


def test_labels_can_be_looked_up_both_ways(model: CellClassifier) -> None:
    assert [model.label_for_index(i) for i in range(3)] == TYPES
    assert [model.index_for_label(name) for name in TYPES] == [0, 1, 2]
    with pytest.raises(KeyError, match="The labels are 'type 0', 'type 1', 'type 2'"):
        model.index_for_label("type 3")
    for index in (3, -1, "type 1"):
        with pytest.raises(IndexError, match="have the numbers 0 to 2"):
            model.label_for_index(index)


def test_early_stopping_watches_the_validation_loss() -> None:
    model = make()
    options = {**TRAIN, "plan_kwargs": {"lr": 0.0}}
    model.train(max_epochs=20, early_stopping=True, early_stopping_patience=2, **options)
    assert len(model.history["validation_loss"]) < 6


def test_seed_decides_the_result() -> None:
    first, same = trained(max_epochs=1), trained(max_epochs=1)
    np.testing.assert_array_equal(logits_of(first), logits_of(same))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"pooling": "attention", "feedforward_sizes": (8,), "label_smoothing": 0.1}, id="attention"),
        pytest.param({"sequence_encoder": "gru", "head_initializer": "xavier_uniform", "dropout": 0.0}, id="gru"),
        pytest.param({"backbone": "llama", "pooling": "last"}, id="llama"),
        pytest.param({"loss_weights": "balanced", "setup": {"tokenizer": "bins"}}, id="bins"),
    ],
)
def test_settings_reach_the_network_and_survive_saving(options: dict[str, Any], tmp_path: Path) -> None:
    model = trained(toy_cells(60), max_epochs=1, **options)
    config = model.module.network.config
    for name, value in options.items():
        if name in ("pooling", "sequence_encoder", "label_smoothing", "head_initializer"):
            assert getattr(config, name) == value
    model.save(str(tmp_path / "saved"))
    loaded = CellClassifier.load(str(tmp_path / "saved"), adata=toy_cells(60), accelerator="cpu")
    np.testing.assert_allclose(logits_of(loaded), logits_of(model), atol=1e-5)
    assert loaded.module.network.config.label_weights == config.label_weights
