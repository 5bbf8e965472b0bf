"""Cells are clustered by their exact neighbours, however many there are."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from sklearn.metrics import adjusted_rand_score

from sfm.annotation._clusters import cluster_cells, expression_vectors, over_clusters
from sfm.annotation._exact_neighbors import ExactNeighbors
from sfm.datasets import toy_cells

from .conftest import make_blobs

pytest.importorskip("igraph")


def neighbors_of(vectors: np.ndarray, **options: Any) -> ad.AnnData:
    cells = ad.AnnData(vectors)
    sc.pp.neighbors(cells, use_rep="X", random_state=0, **options)
    return cells


@pytest.mark.parametrize("n_neighbors", [2, 5, 15])
def test_neighbours_are_those_that_scanpy_finds_when_it_compares_all(n_neighbors: int) -> None:
    vectors = make_blobs(200).vectors
    found = neighbors_of(vectors, transformer=ExactNeighbors(n_neighbors))
    expected = neighbors_of(vectors, transformer="sklearn", n_neighbors=n_neighbors)
    for graph in ("distances", "connectivities"):
        np.testing.assert_allclose(found.obsp[graph].toarray(), expected.obsp[graph].toarray(), atol=1e-3)


def test_a_cell_is_its_own_first_neighbour_among_copies_of_it() -> None:
    vectors = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)
    graph = ExactNeighbors(4).fit_transform(vectors)
    rows = graph.indices.reshape(30, 4)
    assert np.array_equal(rows[:, 0], np.arange(30))
    assert all(len(set(row)) == 4 for row in rows.tolist())
    assert (rows // 10 == np.arange(30)[:, None] // 10).all()
    np.testing.assert_allclose(graph.data, 0, atol=1e-3)


def test_as_many_neighbours_as_cells_are_all_of_them() -> None:
    rows = ExactNeighbors(6).fit_transform(make_blobs(6).vectors).indices.reshape(6, 6)
    assert (np.sort(rows, axis=1) == np.arange(6)).all()


@pytest.mark.parametrize("n_cells", [600, 9000])
def test_many_cells_are_clustered_alike_each_time(n_cells: int) -> None:
    """Scanpy takes approximate neighbours, of another package, from 8192 cells on."""
    blobs = make_blobs(n_cells, n_dims=6, distance=12.0)
    blobs.vectors[:, -1] /= 20
    clusters = over_clusters(blobs.vectors)
    assert np.array_equal(clusters, over_clusters(blobs.vectors))
    assert 4 < clusters.max() + 1 < n_cells / 10
    sizes = np.zeros((clusters.max() + 1, 4))
    np.add.at(sizes, (clusters, blobs.codes), 1)
    assert sizes.max(axis=1).sum() > 0.995 * n_cells  # hardly a cluster has cells of two centres


def test_clusters_are_found_in_the_directions_that_vary_most() -> None:
    vectors = make_blobs(300, n_dims=5, distance=15.0).vectors[:, :4]
    wide = np.hstack([vectors, 1e-3 * np.random.default_rng(0).standard_normal((300, 80), dtype=np.float32)])
    assert adjusted_rand_score(over_clusters(vectors), over_clusters(wide + 100)) > 0.9


@pytest.mark.parametrize("n_cells", [1, 2, 3, 5])
@pytest.mark.parametrize("with_vectors", [False, True])
def test_a_few_cells_are_clusters(n_cells: int, *, with_vectors: bool) -> None:
    adata = toy_cells()[:n_cells].copy()
    vectors = make_blobs(n_cells).vectors if with_vectors else None
    clusters = cluster_cells(adata, vectors, layer=None, use_raw=False, gene_symbols=None)
    assert clusters.shape == (n_cells,)
    if n_cells < 3:
        assert np.array_equal(clusters, np.arange(n_cells))


@pytest.mark.parametrize("n_genes", [1, 50, 51])
def test_expression_of_a_few_genes_is_compared_as_it_is(n_genes: int) -> None:
    adata = toy_cells()[:, :n_genes].copy()
    vectors = expression_vectors(adata, layer=None, use_raw=False, gene_symbols=None)
    assert vectors.shape == (adata.n_obs, min(n_genes, 50))
