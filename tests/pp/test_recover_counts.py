from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import sfm

COUNTS = np.random.default_rng(0).poisson(np.random.default_rng(1).gamma(0.3, 3, (40, 60))).astype(np.float32)


def normalised(counts: np.ndarray, *, target_sum: float = 1e4, log: bool, decimals: int | None = None) -> ad.AnnData:
    adata = ad.AnnData(sparse.csr_matrix(counts))
    sc.pp.normalize_total(adata, target_sum=target_sum)
    if log:
        sc.pp.log1p(adata)
        adata.uns.clear()
    if decimals is not None:
        adata.X.data = adata.X.data.round(decimals)
    return adata


@given(st.sampled_from([1.0, 1e3, 1e4, 1e6]), st.booleans(), st.sampled_from([None, 3]))
def test_restores_the_counts(target_sum: float, log: bool, decimals: int | None) -> None:
    decimals = decimals if log and target_sum >= 1e3 else None
    adata = normalised(COUNTS, target_sum=target_sum, log=log, decimals=decimals)
    sfm.pp.recover_counts(adata)
    assert np.array_equal(adata.layers["counts"].toarray(), COUNTS)


def test_a_cell_whose_smallest_count_is_two() -> None:
    counts = np.array([[2, 3, 0, 7, 10], [1, 0, 0, 2, 0]], dtype=np.float32)
    adata = normalised(counts, log=True)
    sfm.pp.recover_counts(adata)
    assert np.array_equal(adata.layers["counts"].toarray(), counts)


def test_empty_cells_stay_empty() -> None:
    counts = np.vstack([COUNTS, np.zeros((2, COUNTS.shape[1]), dtype=np.float32)])
    with pytest.warns(UserWarning, match="zero counts"):
        adata = normalised(counts, log=True)
    sfm.pp.recover_counts(adata)
    assert np.array_equal(adata.layers["counts"].toarray(), counts)


def test_reads_raw_and_leaves_the_rest_alone() -> None:
    adata = normalised(COUNTS, log=True)
    adata.raw = adata.copy()
    adata = adata[:, ::2].copy()
    before = adata.copy()
    adata.X = adata.X.toarray()
    sc.pp.scale(adata)
    scaled = adata.X.copy()
    sfm.pp.recover_counts(adata, use_raw=True, key_added="restored")
    assert np.array_equal(adata.layers["restored"].toarray(), COUNTS[:, ::2])
    assert np.array_equal(adata.X, scaled)
    assert (adata.raw.X != before.raw.X).nnz == 0


def test_copy_leaves_the_input_untouched() -> None:
    adata = normalised(COUNTS, log=True)
    result = sfm.pp.recover_counts(adata, copy=True)
    assert "counts" in result.layers
    assert not adata.layers


@pytest.mark.parametrize("what", ["scaled", "smoothed"])
def test_refuses_values_that_were_no_counts(what: str) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(20, 50)) if what == "scaled" else rng.gamma(0.5, 2, size=(20, 50))
    adata = ad.AnnData(values)
    with pytest.raises(ValueError, match="scaled values" if what == "scaled" else "not multiples of one factor"):
        sfm.pp.recover_counts(adata)
    assert not adata.layers


def test_pbmc68k_as_scanpy_ships_it() -> None:
    adata = sc.datasets.pbmc68k_reduced()
    sfm.pp.recover_counts(adata, use_raw=True)
    counts = adata.layers["counts"]
    share = np.asarray(counts.sum(axis=1)).ravel() / adata.obs["n_counts"].to_numpy()
    assert np.array_equal(counts.data, np.rint(counts.data))
    assert counts.data.min() == 1
    assert (share < 1).all()
