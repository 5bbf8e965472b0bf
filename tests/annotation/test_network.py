"""Classifier networks as references."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import dask.array as da
import numpy as np
import pytest
from scipy import sparse

import sfm
from sfm.annotation._network import NetworkReference
from sfm.datasets import toy_cells, toy_model
from sfm.genes import align_genes

if TYPE_CHECKING:
    from sfm.checkpoints import PretrainedCells

EMPTY = [3, 59]
SCGPT = Path(__file__).parents[1] / "goldens" / "scgpt"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reference", [False, True])
def test_provenance_says_that_the_reference_is_a_classifier(reference: bool) -> None:
    adata = ad.read_h5ad(SCGPT / "input.h5ad")
    adata.X = adata.X.astype(np.float32).rint()
    adata.obs["label"] = np.resize(["first", "second"], adata.n_obs)
    pretrained = sfm.load(SCGPT / "model", reference=reference)
    model = sfm.model.CellClassifier.from_pretrained(pretrained, adata, labels_key="label", gene_symbols="feature_name")
    assert pretrained.params()["reference"] is reference
    found = NetworkReference(model.as_pretrained()).params()
    assert found["reference"] == "classifier"
    assert found["temperature"] == 1
    assert found.keys() >= pretrained.params().keys()


@pytest.fixture(scope="module")
def classifier() -> PretrainedCells:
    labelled = toy_cells(60)
    labelled.obs["label"] = np.resize(["first", "second", "third"], labelled.n_obs)
    model = sfm.model.CellClassifier.from_pretrained(toy_model(max_length=48), labelled, labels_key="label")
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    return model.as_pretrained()


def some_cells() -> ad.AnnData:
    adata = toy_cells(60, seed=1)
    adata.X = sparse.diags((~np.isin(np.arange(60), EMPTY)).astype(np.float32)) @ adata.X
    return adata


@pytest.mark.parametrize("stored", ["in memory", "h5ad", "dask"])
@pytest.mark.parametrize("genes", [None, 100])
def test_what_is_said_of_a_cell_does_not_depend_on_the_windows(
    classifier: PretrainedCells, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stored: str, genes: int | None
) -> None:
    adata = some_cells()
    shown = None if genes is None else np.unique(align_genes(adata.var_names, classifier.vocabulary).token_ids)[-genes:]
    reference = NetworkReference(classifier, genes=shown)
    at_once = reference.predict(adata)
    monkeypatch.setattr(sfm.settings, "window_size", 7)
    match stored:
        case "h5ad":
            adata.write_h5ad(tmp_path / "cells.h5ad")
            adata = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
        case "dask":
            adata.X = da.from_array(adata.X.toarray(), chunks=(13, -1))
    found = reference.predict(adata)
    for name in ("probabilities", "novelty", "vectors"):
        np.testing.assert_allclose(getattr(found, name), getattr(at_once, name), atol=1e-5, err_msg=name)
        assert getattr(found, name).dtype == np.float32
    assert np.array_equal(found.codes, at_once.codes)
    assert np.flatnonzero(found.is_empty).tolist() == EMPTY
    assert found.params == at_once.params


def test_a_bad_value_in_the_last_window_is_refused(
    classifier: PretrainedCells, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata = toy_cells(300)
    adata.X.data[-1] = 0.5
    monkeypatch.setattr(sfm.settings, "window_size", 64)
    with pytest.raises(ValueError, match="first in cell 'cell_299', but raw counts are needed"):
        NetworkReference(classifier).predict(adata)
