"""Labels of samples, which are lists of cells."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import scvi
import torch

from sfm.datasets import toy_cells
from sfm.model import CellClassifier

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TRAIN: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}
N_DONORS, N_CELLS = 24, 12


@cache
def many_cells() -> AnnData:
    return toy_cells(3000)


def donors(*, share: float = 0.25, seed: int = 0) -> AnnData:
    """Donors of cells of two types; in disease, some cells are of the third type. Other seeds give other cells."""
    adata = many_cells()[600 * seed :]
    rng = np.random.default_rng(seed)
    of_type = {
        name: list(np.flatnonzero(adata.obs["cell_type"] == name)) for name in adata.obs["cell_type"].cat.categories
    }
    rows, donor, disease = [], [], []
    for i in range(N_DONORS):
        n_new = round(share * N_CELLS) * (i % 2)
        types = rng.permutation(["type 2"] * n_new + [f"type {rng.integers(2)}" for _ in range(N_CELLS - n_new)])
        rows += [of_type[name].pop() for name in types]
        donor += [f"donor {i}"] * N_CELLS
        disease += [["healthy", "sick"][i % 2]] * N_CELLS
    chosen = adata[rows].copy()
    chosen.obs["donor"], chosen.obs["disease"] = donor, disease
    return chosen[rng.permutation(chosen.n_obs)].copy()


def set_up(adata: AnnData, **options: Any) -> CellClassifier:
    CellClassifier.setup_anndata(adata, labels_key="disease", sample_key="donor", max_length=32)
    scvi.settings.seed = 0
    return CellClassifier(adata, **{**SIZES, **options})


@pytest.fixture(scope="module")
def model() -> CellClassifier:
    """A model that has learnt the disease; tests leave it as it is."""
    model = set_up(donors())
    model.train(max_epochs=25, train_size=0.75, plan_kwargs={"lr": 1e-2}, **TRAIN)
    return model


def test_the_disease_is_learnt_from_the_cells_that_it_adds(model: CellClassifier) -> None:
    query = donors(seed=1)
    predicted = model.predict(query)
    truth = query.obs.drop_duplicates("donor").set_index("donor")["disease"]
    assert set(predicted.index) == set(truth.index)
    assert (predicted == truth.reindex(predicted.index)).mean() > 0.9
    assert model.history["validation_accuracy"].iloc[-1].item() > 0.8

    weights = model.cell_weights(query)
    pd.testing.assert_index_equal(weights.index, query.obs_names)
    totals = weights.groupby(query.obs["donor"], observed=True).sum()
    np.testing.assert_allclose(totals, 1, atol=1e-5)
    sick = query.obs["disease"] == "sick"
    added = query.obs["cell_type"] == "type 2"
    assert weights[sick & added].mean() > 2 * weights[sick & ~added].mean()


def test_one_row_per_sample_whatever_the_order_of_cells_and_the_other_samples(model: CellClassifier) -> None:
    query = donors(seed=2)
    soft = model.predict(query, soft=True)
    assert soft.shape == (N_DONORS, 2)
    assert list(soft.index[:3]) == ["donor 0", "donor 1", "donor 2"]
    assert list(soft.columns) == ["healthy", "sick"]
    shuffled = query[np.random.default_rng(0).permutation(query.n_obs)].copy()
    np.testing.assert_allclose(model.predict(shuffled, soft=True, batch_size=5), soft, atol=1e-5)
    few = query[query.obs["donor"].isin(["donor 10", "donor 3"])].copy()
    pd.testing.assert_frame_equal(model.predict(few, soft=True), soft.loc[["donor 3", "donor 10"]], atol=1e-5)
    rows = np.flatnonzero(query.obs["donor"] == "donor 3")
    pd.testing.assert_frame_equal(model.predict(query, indices=rows, soft=True), soft.loc[["donor 3"]], atol=1e-5)
    weights = model.cell_weights(query)
    pd.testing.assert_series_equal(model.cell_weights(few), weights[few.obs_names], atol=1e-5)


def test_cells_of_a_sample_are_never_on_both_sides(model: CellClassifier) -> None:
    donor = model.adata.obs["donor"].to_numpy()
    train, validation = set(donor[model.train_indices]), set(donor[model.validation_indices])
    assert not train & validation
    assert (len(train), len(validation)) == (18, 6)
    assert set(np.concatenate([model.train_indices, model.validation_indices])) == set(range(N_DONORS * N_CELLS))
    sick = {f"donor {i}" for i in range(1, N_DONORS, 2)}
    assert len(validation & sick) == 3


def test_report_is_of_samples(model: CellClassifier) -> None:
    report = model.classification_report()
    assert report.attrs["n"] == report["support"].sum() == 6
    assert model.history["validation_accuracy"].iloc[-1].item() == pytest.approx(report.attrs["accuracy"])
    assert model.classification_report(donors(seed=1)).attrs["n"] == N_DONORS


def test_saved_models_say_the_same(model: CellClassifier, tmp_path: Path) -> None:
    soft, weights = model.predict(soft=True), model.cell_weights()
    model.save(str(tmp_path / "saved"))
    loaded = CellClassifier.load(str(tmp_path / "saved"), adata=model.adata.copy(), accelerator="cpu")
    pd.testing.assert_frame_equal(loaded.predict(soft=True), soft, atol=1e-5)
    query = donors(seed=3)
    other = CellClassifier.load(
        str(tmp_path / "saved"), adata=query[query.obs["donor"] != "donor 0"].copy(), accelerator="cpu"
    )
    assert len(other.predict()) == N_DONORS - 1
    model.save_pretrained(tmp_path / "directory")
    again = CellClassifier.from_pretrained(
        tmp_path / "directory", model.adata.copy(), labels_key="disease", sample_key="donor"
    )
    pd.testing.assert_frame_equal(again.predict(soft=True), soft, atol=1e-5)
    pd.testing.assert_series_equal(again.cell_weights(), weights, atol=1e-6)
    again.train(max_epochs=1, **TRAIN)


@pytest.mark.parametrize("sample_pooling", ["mean", "max"])
def test_other_poolings_train_as_well(sample_pooling: str) -> None:
    model = set_up(donors(), sample_pooling=sample_pooling)
    model.train(max_epochs=1, **TRAIN)
    weights = model.cell_weights()
    np.testing.assert_allclose(weights.groupby(model.adata.obs["donor"], observed=True).sum(), 1, atol=1e-5)
    if sample_pooling == "mean":
        np.testing.assert_allclose(weights, 1 / N_CELLS, atol=1e-6)


def test_unlabelled_samples_are_predicted_but_not_trained_on() -> None:
    adata = donors()
    adata.obs.loc[adata.obs["donor"].isin(["donor 0", "donor 1"]), "disease"] = np.nan
    model = set_up(adata)
    model.train(max_epochs=1, **TRAIN)
    used = np.concatenate([model.train_indices, model.validation_indices])
    assert not set(adata.obs["donor"].iloc[used]) & {"donor 0", "donor 1"}
    assert len(model.predict()) == N_DONORS
    assert model.classification_report(indices=np.arange(adata.n_obs)).attrs["n"] == N_DONORS - 2


def test_labels_that_differ_within_a_sample_name_it() -> None:
    adata = donors()
    cell = adata.obs_names[adata.obs["donor"] == "donor 4"][0]
    adata.obs.loc[cell, "disease"] = "sick"
    with pytest.raises(ValueError, match=r"those of 'donor 4' have '(sick|healthy)', '(sick|healthy)'"):
        set_up(adata)
    assert not adata.obsm


def test_cells_of_no_sample_are_named() -> None:
    adata = donors()
    adata.obs["donor"] = adata.obs["donor"].mask(adata.obs_names == adata.obs_names[5])
    with pytest.raises(ValueError, match=rf"1 cells, '{adata.obs_names[5]}' among them, have no sample"):
        set_up(adata)


def test_a_single_sample_with_a_label_is_never_held_out() -> None:
    adata = donors()
    adata.obs["disease"] = adata.obs["disease"].mask(adata.obs["donor"] == "donor 7", "rare")
    with pytest.warns(UserWarning, match="that a single sample has: 'rare'"):
        model = set_up(adata)
    model.train(max_epochs=1, train_size=0.5, **TRAIN)
    assert set(np.flatnonzero(adata.obs["donor"] == "donor 7")) <= set(model.train_indices)


def test_models_of_cells_have_no_weights_of_cells() -> None:
    adata = toy_cells(30)
    CellClassifier.setup_anndata(adata, labels_key="cell_type", max_length=32)
    with pytest.raises(ValueError, match="Weights of cells need setup_anndata"):
        CellClassifier(adata, **SIZES).cell_weights()


def test_external_splits_keep_samples_whole() -> None:
    model = set_up(donors())
    rows = np.arange(model.adata.n_obs)
    options = {"external_indexing": [rows[:100], rows[100:]]}
    with pytest.raises(ValueError, match="both in training and outside of it"):
        model.train(max_epochs=1, datasplitter_kwargs=options, **TRAIN)


def test_the_loss_is_that_of_the_network_on_whole_samples() -> None:
    """However the cells are encoded: the minibatch is larger than what is computed at once."""
    model = set_up(donors(), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, dropout=0.0)
    module = model.module
    model.train(max_epochs=1, plan_kwargs={"lr": 0.0}, datasplitter_kwargs={"cells_per_sample": 5}, **TRAIN)
    loader = model.trainer.datamodule.train_dataloader()
    minibatch = next(iter(loader))
    assert minibatch["sample_index"].unique(return_counts=True)[1].tolist() == [5, 5, 5, 5]
    module.train()
    loss = module(minibatch)[2].loss
    gradients = torch.autograd.grad(loss, list(module.network.parameters()), allow_unused=True)
    samples, index = minibatch["sample_index"].unique(return_inverse=True)
    labels = torch.stack([minibatch["label_index"][minibatch["sample_index"] == sample][0] for sample in samples])
    whole = module.network(**module.inputs(minibatch), labels=labels, sample_index=index).loss
    expected = torch.autograd.grad(whole, list(module.network.parameters()), allow_unused=True)
    torch.testing.assert_close(loss, whole)
    for gradient, other in zip(gradients, expected, strict=True):
        assert (gradient is None) == (other is None)
        if gradient is not None:
            torch.testing.assert_close(gradient, other, atol=1e-5, rtol=1e-4)
