"""The limits of `tl.annotate`: options without a meaning, thresholds that cannot act, and very few cells."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import sfm
from sfm.datasets import toy_cells, toy_model

if TYPE_CHECKING:
    import anndata as ad

CELLS = toy_cells(60)
MODEL = toy_model("values")


def reference() -> ad.AnnData:
    return CELLS[:40].copy()


def query(n_cells: int = 20) -> ad.AnnData:
    return CELLS[40 : 40 + n_cells].copy()


def celltypist_model() -> SimpleNamespace:
    """A model of two labels in the genes of the toy cells."""
    n_genes, genes = CELLS.n_vars, CELLS.var_names.to_numpy()
    coefficients = np.random.default_rng(0).standard_normal((1, n_genes))
    classifier = SimpleNamespace(
        classes_=np.array(["B cell", "T cell"]), features=genes, coef_=coefficients, intercept_=np.zeros(1)
    )
    scaler = SimpleNamespace(mean_=np.ones(n_genes), scale_=np.ones(n_genes), with_mean=True)
    return SimpleNamespace(classifier=classifier, scaler=scaler, description={})


def one_cell_per_label() -> ad.AnnData:
    cells = reference()
    first = [int(np.flatnonzero(cells.obs["cell_type"] == name)[0]) for name in ("type 0", "type 1")]
    return cells[first].copy()


@pytest.mark.parametrize(
    ("method", "options", "named"),
    [
        ("knn", {"n_neighbors": 0}, "n_neighbors=0"),
        ("knn", {"n_neighbors": 2.5}, "n_neighbors=2.5"),
        ("knn", {"weight_of_means": 5}, "weight_of_means=5"),
        ("knn", {"whiten": "no"}, "whiten='no'"),
        ("logreg", {"C": 0}, "C=0"),
        ("logreg", {"C": "a"}, "C='a'"),
        ("lda", {"balanced": "x"}, "balanced='x'"),
        (["knn", "logreg", "lda"], {"logreg": {"C": -1}}, "C=-1"),
    ],
)
def test_options_of_methods_are_refused_before_anything_is_read(method: Any, options: Any, named: str) -> None:
    """Counts that would be refused as well show which came first."""
    adata = query()
    adata.X = adata.X - 1.5 * adata.X
    with pytest.raises((TypeError, ValueError), match=named):
        sfm.tl.annotate(adata, reference(), model=MODEL, method=method, method_kwargs=options)


@pytest.mark.parametrize("value", [True, np.False_, [0.5], 1 + 0j])
@pytest.mark.parametrize("name", ["min_confidence", "max_novelty"])
def test_thresholds_are_numbers(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name}=.* is not between 0 and 1"):
        sfm.tl.annotate(query(), reference(), model=MODEL, **{name: value})


@pytest.mark.parametrize("value", [0, 1, np.float32(0.5)])
def test_numbers_of_any_kind_are_thresholds(value: Any) -> None:
    adata = query()
    sfm.tl.annotate(adata, reference(), views="expression", min_confidence=value)
    rejected = adata.obs["sfm_label"] == "unknown"
    assert np.array_equal(rejected, adata.obs["sfm_label_confidence"] < value)


def test_novelty_that_celltypist_models_do_not_tell_rejects_no_cell() -> None:
    adata = query()
    with pytest.warns(UserWarning, match="max_novelty=0 rejects no cell: CellTypist models do not tell"):
        sfm.tl.annotate(adata, celltypist_model(), max_novelty=0)
    assert "sfm_label_novelty" not in adata.obs
    assert (adata.obs["sfm_label"] != "unknown").all()


@pytest.mark.filterwarnings("ignore:2 labels .* have one reference cell only:UserWarning")
def test_a_reference_of_which_nothing_can_be_held_out_says_so() -> None:
    adata = query()
    with (
        pytest.warns(UserWarning, match="confidence is not calibrated"),
        pytest.warns(UserWarning, match="max_novelty=0.5 rejects no cell: .* none could be held out"),
    ):
        sfm.tl.annotate(adata, one_cell_per_label(), views="expression", max_novelty=0.5)
    params = adata.uns["sfm_label"]["params"]
    assert params["n_held_out"] == 0
    for name in ("expected_calibration_error", "expected_calibration_error_before", "held_out_accuracy"):
        assert params[name] is None
    assert (adata.obs["sfm_label"] != "unknown").all()


@pytest.mark.parametrize("n_cells", [1, 2, 3, 6])
@pytest.mark.parametrize("of", ["celltypist", "cells"])
def test_clusters_of_a_few_cells_can_vote(of: str, n_cells: int) -> None:
    pytest.importorskip("igraph")
    adata, alone = query(n_cells), query(n_cells)
    given: Any = (celltypist_model(), {}) if of == "celltypist" else (reference(), {"views": "expression"})
    sfm.tl.annotate(adata, given[0], majority_voting=True, **given[1])
    sfm.tl.annotate(alone, given[0], **given[1])
    if n_cells < 3:
        assert adata.obs["sfm_label"].to_list() == alone.obs["sfm_label"].to_list()
    assert adata.obs["sfm_label_consensus"].between(0, 1).all()
