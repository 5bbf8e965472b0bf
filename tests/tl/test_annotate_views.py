"""What cells are compared by in `tl.annotate`: vectors of the model, expression, or both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scanpy as sc

import sfm
from sfm.datasets import toy_model

from .conftest import CELLS, METHODS, TYPES, classifier, labels_of, sharpened, truth

if TYPE_CHECKING:
    import anndata as ad

    from sfm.checkpoints import PretrainedCells


def annotated(query: ad.AnnData, labelled: ad.AnnData, **options: Any) -> ad.AnnData:
    return sfm.tl.annotate(query, labelled, copy=True, **options)


def probabilities(adata: ad.AnnData) -> np.ndarray:
    return adata.obsm["sfm_label_probabilities"].to_numpy()


def params(adata: ad.AnnData) -> dict[str, Any]:
    return adata.uns["sfm_label"]["params"]


@pytest.mark.parametrize("method", [*METHODS, METHODS])
def test_both_views_are_averaged_and_are_the_default(
    labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells, method: Any
) -> None:
    found = {
        views: annotated(query, labelled, model=model, method=method, views=views)
        for views in (None, "both", "model", "expression")
    }
    if isinstance(method, str):
        mean = (probabilities(found["model"]) + probabilities(found["expression"])) / 2
        np.testing.assert_allclose(probabilities(found["both"]), sharpened(mean, found["both"]), atol=1e-4)
    np.testing.assert_array_equal(probabilities(found[None]), probabilities(found["both"]))
    assert np.abs(probabilities(found["model"]) - probabilities(found["expression"])).max() > 0.05
    assert [params(adata)["views"] for adata in found.values()] == ["both", "both", "model", "expression"]
    for adata in found.values():
        assert (labels_of(adata) == truth(adata)).mean() > 0.9


def test_expression_alone_needs_no_network(labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells) -> None:
    found = annotated(query, labelled, model=model, views="expression")
    other = annotated(query, labelled, model=toy_model("rank"), views="expression")
    np.testing.assert_allclose(probabilities(found), probabilities(other), atol=1e-4)
    assert "weights_hash" not in params(found)
    assert params(found)["slot"] == "adata.X"
    assert params(found)["n_shared_genes"] == 300


@pytest.mark.parametrize("rows", [[160, 199], list(range(219, 149, -7))])
def test_a_label_by_expression_depends_on_the_cell_alone(
    labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells, rows: list[int]
) -> None:
    some = CELLS[rows].copy()
    few = annotated(some, labelled, model=model, views="expression")
    among_all = annotated(query, labelled, model=model, views="expression")[some.obs_names]
    np.testing.assert_allclose(probabilities(few), probabilities(among_all), atol=1e-4)
    np.testing.assert_allclose(few.obs["sfm_label_novelty"], among_all.obs["sfm_label_novelty"], atol=0.02)


def test_genes_that_one_side_lacks_do_not_count_in_the_expression(
    labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells
) -> None:
    panel = query[:, :150].copy()
    found = annotated(panel, labelled, model=model, views="expression")
    expected = annotated(query, labelled[:, :150].copy(), model=model, views="expression")
    np.testing.assert_allclose(probabilities(found), probabilities(expected), atol=1e-4)


def renamed(adata: ad.AnnData, style: str) -> ad.AnnData:
    """With names that no model knows, in an order that is not that of the names."""
    adata = adata.copy()
    adata.var_names = [style.format(number) for number in np.random.default_rng(0).permutation(adata.n_vars)]
    return adata


@pytest.mark.parametrize("style", ["abc-{}", "ENSDARG{:011d}"])
def test_expression_is_compared_by_name_where_no_model_knows_the_genes(
    labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells, style: str
) -> None:
    expected = annotated(query, labelled, model=model, views="expression")
    unknown, reference = renamed(query, style), renamed(labelled, style)
    if style.startswith("ENS"):
        unknown.var_names = unknown.var_names + ".2"
    unknown = unknown[:, ::-1].copy()
    found = annotated(unknown, reference, model=model, views="expression")
    np.testing.assert_allclose(probabilities(found), probabilities(expected), atol=1e-3)
    assert params(found)["n_shared_genes"] == 300
    assert params(found)["n_genes_known"] == 0
    with pytest.raises(ValueError, match=r"knows none of the 300 genes.*`views='expression'`"):
        annotated(unknown, reference, model=model)


def test_the_way_without_a_model_is_named_only_where_genes_are_what_is_wrong(
    labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells
) -> None:
    sc.pp.normalize_total(query)
    sc.pp.log1p(query)
    with pytest.raises(ValueError, match="holds log1p") as raised:
        annotated(query, labelled, model=model)
    assert "views='expression'" not in str(raised.value)


def test_genes_that_no_model_knows_have_to_be_shared(labelled: ad.AnnData, query: ad.AnnData) -> None:
    unknown, partly = renamed(query, "abc-{}"), renamed(labelled, "abc-{}")
    partly.var_names = [*(f"xyz-{i}" for i in range(200)), *partly.var_names[200:]]
    with pytest.warns(UserWarning, match="share 100 genes, 33 % of those that the query has"):
        annotated(unknown, partly, views="expression")
    with pytest.raises(ValueError, match="no gene in common .*'abc-0', 'abc-1', 'abc-10' in the query"):
        annotated(unknown, renamed(labelled, "xyz-{}"), views="expression")


def test_named_vectors_are_compared_alone(labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells) -> None:
    expected = annotated(query, labelled, model=model, views="model")
    for adata in (query, labelled):
        sfm.tl.embed(adata, model)
    found = annotated(query, labelled, use_rep="X_sfm")
    np.testing.assert_allclose(probabilities(found), probabilities(expected), atol=1e-5)
    assert params(found)["views"] == "model"


@pytest.fixture(scope="module")
def embedded() -> ad.AnnData:
    """All cells with vectors of the bundled model, which takes a while."""
    adata = CELLS.copy()
    sfm.tl.embed(adata)
    return adata


def test_vectors_that_are_there_change_nothing_but_the_time(embedded: ad.AnnData) -> None:
    expected = annotated(CELLS[150:].copy(), CELLS[:150].copy())
    query, labelled = embedded[150:].copy(), embedded[:150].copy()
    found = annotated(query, labelled)
    np.testing.assert_allclose(probabilities(found), probabilities(expected), atol=1e-4)
    assert params(found)["use_rep"] == "X_sfm"
    assert params(found)["views"] == "both"
    assert params(annotated(query, labelled, views="model"))["views"] == "model"


@pytest.mark.parametrize("side", ["query", "reference"])
def test_vectors_are_compared_alone_where_counts_are_gone(embedded: ad.AnnData, side: str) -> None:
    query, labelled = embedded[150:].copy(), embedded[:150].copy()
    without = query if side == "query" else labelled
    sc.pp.normalize_total(without)
    sc.pp.log1p(without)
    found = annotated(query, labelled)
    assert params(found)["views"] == "model"
    assert params(found)["use_rep"] == "X_sfm"
    with pytest.raises(ValueError, match=r"adata\.X holds log1p"):  # asked for both, there is no falling back
        annotated(query, labelled, views="both")


def test_cells_without_counts_are_unknown_by_expression(
    labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells
) -> None:
    query.X = query.X.multiply(np.arange(query.n_obs)[:, None] != 3).tocsr()
    with pytest.warns(UserWarning, match="1 of 70 cells have no count on a known gene"):
        found = annotated(query, labelled, model=model, views="expression")
    assert np.flatnonzero(labels_of(found) == "unknown").tolist() == [3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": "counts"}, "Unknown views='counts'. Choose one of 'both', 'model', 'expression'"),
        ({"views": "both", "use_rep": "X_sfm"}, "use_rep='X_sfm' and views='both' were both given"),
        ({"views": "expression", "use_rep": "X_sfm"}, "use_rep='X_sfm' and views='expression' were both given"),
        ({"views": "both", "method": "finetune"}, "views='both': method='finetune' has none to choose from"),
    ],
)
def test_impossible_views_are_refused(
    labelled: ad.AnnData, query: ad.AnnData, options: dict[str, Any], message: str
) -> None:
    before = query.copy()
    with pytest.raises(ValueError, match=message):
        sfm.tl.annotate(query, labelled, **options)
    assert query.obs.equals(before.obs)
    assert not query.uns


def test_a_classifier_has_no_views(query: ad.AnnData, model: PretrainedCells) -> None:
    with pytest.raises(ValueError, match="views='both' goes with labelled cells as reference"):
        sfm.tl.annotate(query, classifier(model, TYPES), views="both")


@pytest.mark.parametrize("side", ["query", "reference"])
def test_expression_is_read_from_counts(
    labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells, side: str
) -> None:
    logged = query if side == "query" else labelled
    sc.pp.normalize_total(logged)
    sc.pp.log1p(logged)
    with pytest.raises(ValueError, match=f"(?i)^the {side}.*adata.X holds log1p"):
        sfm.tl.annotate(query, labelled, model=model, views="expression")
