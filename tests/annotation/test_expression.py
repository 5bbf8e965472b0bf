"""Expression as a view of cells: fitted on the reference alone, whatever the storage, order and size of the parts."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

import sfm
from sfm.annotation._expression import SharedCounts, expression_views, principal_components
from sfm.annotation._variable_genes import GeneMoments, most_variable
from sfm.datasets import toy_cells, toy_model

if TYPE_CHECKING:
    from pathlib import Path

    from sfm.annotation._expression import ExpressionVectors

MODEL = toy_model("values")
CELLS = toy_cells(150)
WHERE: dict[str, Any] = {"layer": None, "use_raw": False, "gene_symbols": None}
STORAGES = ["csr", "csc", "dense", "dask", "backed", "backed csc", "view"]


def vectors_of(query: ad.AnnData, reference: ad.AnnData, labelled: np.ndarray | None = None) -> ExpressionVectors:
    sides = [SharedCounts.open(side, MODEL, WHERE, genes=None) for side in (query, reference)]
    return expression_views(*sides, np.ones(reference.n_obs, dtype=bool) if labelled is None else labelled)


def stored(adata: ad.AnnData, storage: str, folder: Path) -> ad.AnnData:
    if storage == "view":
        return adata[:, :]
    adata = adata.copy()
    if storage == "dask":
        dask = pytest.importorskip("dask.array")
        adata.X = dask.from_array(adata.X.toarray(), chunks=(13, -1)).map_blocks(sparse.csr_matrix)
    elif storage == "dense":
        adata.X = adata.X.toarray()
    elif storage.endswith("csc"):
        adata.X = sparse.csc_matrix(adata.X)
    if storage.startswith("backed"):
        path = folder / f"{len(list(folder.iterdir()))}.h5ad"
        adata.write_h5ad(path)
        return ad.read_h5ad(path, backed="r")
    return adata


@pytest.mark.parametrize("storage", STORAGES)
def test_storage_does_not_matter(storage: str, tmp_path: Path) -> None:
    query, reference = CELLS[:50].copy(), CELLS[50:].copy()
    expected = vectors_of(query, reference)
    sides = [stored(side, storage, tmp_path) for side in (query, reference)]
    for found, wanted in zip(vectors_of(*sides), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_cell_is_where_it_is_whatever_is_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    query, reference = CELLS[:50], CELLS[50:].copy()
    expected = vectors_of(query.copy(), reference).query
    rows = np.array([7, 3, 44])
    np.testing.assert_allclose(vectors_of(query[rows].copy(), reference).query, expected[rows], atol=1e-5)
    monkeypatch.setattr(sfm.settings, "chunk_size", 11)
    dense = query.copy()
    dense.X = dense.X.toarray()
    np.testing.assert_allclose(vectors_of(dense, reference).query, expected, atol=1e-4)


def test_order_of_genes_and_of_reference_cells_turns_the_vectors_at_most() -> None:
    query, reference = CELLS[:50].copy(), CELLS[50:].copy()
    expected = vectors_of(query, reference)
    shuffled = vectors_of(query[:, ::-1].copy(), reference[::-1].copy())
    between = expected.query @ expected.labelled.T
    np.testing.assert_allclose(shuffled.query @ shuffled.labelled.T, between[:, ::-1], atol=1e-3)


def test_only_labelled_cells_are_learnt_from() -> None:
    query, reference = CELLS[:50].copy(), CELLS[50:].copy()
    labelled = np.arange(reference.n_obs) % 2 == 0
    found, expected = vectors_of(query, reference, labelled), vectors_of(query, reference[labelled].copy())
    np.testing.assert_allclose(found.query, expected.query, atol=1e-5)
    np.testing.assert_allclose(found.labelled, expected.labelled, atol=1e-5)


def test_depth_does_not_matter_and_empty_cells_are_told() -> None:
    query, reference = CELLS[:50].copy(), CELLS[50:].copy()
    deeper = query.copy()
    deeper.X = deeper.X * 3
    np.testing.assert_allclose(vectors_of(deeper, reference).query, vectors_of(query, reference).query, atol=1e-4)
    deeper.X = deeper.X.multiply(np.arange(50)[:, None] != 4).tocsr()
    found = vectors_of(deeper, reference)
    assert np.flatnonzero(found.is_empty).tolist() == [4]
    assert np.isfinite(found.query).all()


@pytest.mark.parametrize(("n_cells", "n_genes"), [(200, 70), (30, 70), (2, 70), (40, 5), (1, 70)])
def test_components_are_those_of_a_singular_value_decomposition(n_cells: int, n_genes: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.poisson(1.0, (n_cells, n_genes)).astype(np.float32) * rng.random(n_genes).astype(np.float32)
    mean, components = principal_components(sparse.csr_matrix(values))
    np.testing.assert_allclose(mean, values.mean(axis=0, dtype=np.float64), atol=1e-6)
    np.testing.assert_allclose(components.T @ components, np.eye(components.shape[1]), atol=1e-8)
    kept = ((values - mean) @ components) ** 2
    sizes = np.linalg.svd(values - mean, compute_uv=False)[:50]
    np.testing.assert_allclose(kept.sum(), (sizes**2).sum(), rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_cells_that_are_all_alike_have_components(value: float) -> None:
    _, components = principal_components(sparse.csr_matrix(np.full((20, 60), value, dtype=np.float32)))
    assert components.shape == (60, 50)


def test_genes_that_vary_more_than_others_of_their_mean_are_chosen() -> None:
    rng = np.random.default_rng(0)
    means = np.linspace(0.5, 5, 300)
    variable = np.arange(0, 300, 20)
    factor = np.ones((400, 300))
    factor[:, variable] = rng.choice([0.2, 1.8], (400, len(variable)))
    values = sparse.csr_matrix(rng.poisson(means * factor).astype(np.float32))
    values.data = np.log1p(values.data)
    moments, parts = GeneMoments(300), GeneMoments(300)
    moments.add(values)
    for start in range(0, 400, 150):
        parts.add(values[start : start + 150])
    assert len(set(most_variable(moments, 15)) & set(variable)) > 12
    assert np.array_equal(most_variable(parts, 15), most_variable(moments, 15))
    np.testing.assert_allclose(moments.variance(), values.toarray().var(axis=0), atol=1e-5)


def test_genes_without_counts_are_chosen_last() -> None:
    values = sparse.csr_matrix(np.array([[0, 1, 0, 2], [0, 3, 0, 0]], dtype=np.float32))
    moments = GeneMoments(4)
    moments.add(values)
    assert most_variable(moments, 2).tolist() == [1, 3]
    assert most_variable(moments, 9).tolist() == [0, 1, 2, 3]


def test_cells_by_genes_are_never_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfm.annotation._expression._N_GENES", 100)
    most_expressed = np.argsort(-np.asarray(MODEL.vocabulary.expression))[:2500]
    X = sparse.random(4000, 2500, density=0.005, format="csr", random_state=0, dtype=np.float32)
    X.data = np.ceil(3 * X.data)
    adata = ad.AnnData(X)
    adata.var_names = [MODEL.vocabulary.gene_ids[i] for i in most_expressed]
    counts = SharedCounts.open(adata, MODEL, WHERE, genes=None)
    labelled = np.arange(adata.n_obs) < 500
    vectors_of(CELLS[:50].copy(), CELLS[50:].copy())  # imports what it needs
    tracemalloc.start()
    expression_views(counts, counts, labelled)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < X.shape[0] * X.shape[1]  # a quarter of what they would take
