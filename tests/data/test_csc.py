"""Rows of matrices stored by column, without converting the whole."""

from __future__ import annotations

import gc
import tempfile
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest
from anndata.io import sparse_dataset
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from sfm._matrix import select_matrix
from sfm._matrix._csc import CSCRows, StoredCSCRows
from sfm.data import open_cells

if TYPE_CHECKING:
    from pathlib import Path


def matrix(n_rows: int, n_columns: int, seed: int, dtype: type = np.float32) -> sparse.csc_matrix:
    rng = np.random.default_rng(seed)
    values = rng.poisson(rng.choice([0, 0.1, 2], size=(1, n_columns)), (n_rows, n_columns))
    return sparse.csc_matrix(values.astype(dtype))


@given(n_rows=st.integers(1, 30), n_columns=st.integers(1, 20), seed=st.integers(0, 999), size=st.integers(1, 31))
def test_rows_in_memory(n_rows: int, n_columns: int, seed: int, size: int) -> None:
    X = matrix(n_rows, n_columns, seed)
    reader = CSCRows(X)
    bounds = [(first, min(first + size, n_rows)) for first in range(0, n_rows, size)]
    for first, last in bounds[::-1]:
        block = reader.read(first, last)
        assert block.has_canonical_format
        assert np.array_equal(block.toarray(), X[first:last].toarray())


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint16])
@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
@pytest.mark.parametrize("size", [1, 7, 50])
def test_rows_of_files_that_are_sorted_on_disk(
    kind: str, dtype: type, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfm._matrix._csc._BUCKET_BYTES", 500)
    monkeypatch.setattr("sfm._matrix._csc._READ_VALUES", 37)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    X = matrix(50, 20, 0, dtype)
    getattr(ad.AnnData(X), f"write_{kind}")(tmp_path / f"cells.{kind}")
    with open_cells(tmp_path / f"cells.{kind}") as adata:
        chunks = select_matrix(adata)
        for _ in range(2):  # more than one pass is made where coverage is judged by counts
            found = list(chunks.chunks(size))
            assert [rows.start for rows, _ in found] == list(range(0, 50, size))
            assert np.array_equal(sparse.vstack([counts for _, counts in found]).toarray(), X.toarray())
        assert len(list((tmp_path / "temporary").glob("*/*.rows"))) > 3
        assert np.array_equal(chunks.reader.read(33, 49).toarray(), X[33:49].toarray())
        del chunks
        gc.collect()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_the_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfm._matrix._csc._BUCKET_BYTES", 500)
    ad.AnnData(matrix(50, 20, 0)).write_h5ad(tmp_path / "cells.h5ad")
    with open_cells(tmp_path / "cells.h5ad") as adata:
        reader = StoredCSCRows(adata.X, "adata.X")
    assert reader.read(0, 50).nnz == matrix(50, 20, 0).nnz, "the file is closed, its rows are elsewhere"


def test_rows_and_columns_without_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfm._matrix._csc._BUCKET_BYTES", 100)
    X = matrix(40, 10, 0).tolil()
    X[10:30] = 0
    X[:, 3:6] = 0
    import h5py

    with h5py.File(tmp_path / "x.h5", "w") as file:
        ad.io.write_elem(file, "X", X.tocsc())
        reader = StoredCSCRows(sparse_dataset(file["X"]), "adata.X")
        assert np.array_equal(reader.read(0, 40).toarray(), X.toarray())
        assert reader.read(15, 15).shape == (0, 10)
