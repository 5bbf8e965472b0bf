"""Cells come in the same windows with the same tokens, however their counts are stored."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anndata as ad
import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import sfm
from sfm.data import encode_cells, open_cells, stream_cells
from sfm.datasets import toy_cells, toy_model
from sfm.tokenizers import TokenizedCells

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sfm.tokenizers import Tokenizer

FORMATS = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": lambda X: X.toarray()}
IN_MEMORY = {
    **FORMATS,
    "csr_array": sparse.csr_array,
    "csc_array": sparse.csc_array,
    "unsorted csc": lambda X: unsorted(X.tocsc()),
}
BLOCKS = {**FORMATS, "csr_array": sparse.csr_array}


def unsorted(X: sparse.csc_matrix) -> sparse.csc_matrix:
    """Reverse the stored values of each column."""
    order = np.concatenate([np.arange(X.indptr[i], X.indptr[i + 1])[::-1] for i in range(X.shape[1])])
    return sparse.csc_matrix((X.data[order], X.indices[order], X.indptr), shape=X.shape)


def as_dask(X: sparse.csr_matrix, block: str, *, rows: int = 17, columns: int | None = None) -> da.Array:
    """Cut into blocks; with `columns`, also across genes."""
    chunks = (rows, X.shape[1] if columns is None else columns)
    return da.from_array(X.toarray(), chunks=chunks).map_blocks(
        lambda values: BLOCKS[block](sparse.csr_matrix(values)), dtype=X.dtype
    )


def with_matrix(adata: ad.AnnData, X: Any) -> ad.AnnData:
    """The same cells with another `X`, also as a layer and in `raw`."""
    return ad.AnnData(X, obs=adata.obs, var=adata.var, layers={"counts": X}, raw={"X": X, "var": adata.var})


def write(adata: ad.AnnData, path: Path, *, zarr_format: int = 2, sharded: bool = False) -> None:
    """Write an h5ad file or a zarr store."""
    if path.suffix == ".h5ad":
        adata.write_h5ad(path)
        return
    with ad.settings.override(zarr_write_format=zarr_format, auto_shard_zarr_v3=False), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zarr, about consolidated metadata
        adata.write_zarr(path)
        if sharded:
            shard(path, adata)
            zarr.consolidate_metadata(path)


def shard(path: Path, adata: ad.AnnData) -> None:
    """Write the matrix again, in small chunks within shards."""
    group = zarr.open_group(path, mode="r+")
    if sparse.issparse(adata.X):
        for name in ("data", "indices"):
            values, attributes = group["X"][name][:], dict(group["X"][name].attrs)
            array = group["X"].create_array(
                name, shape=values.shape, dtype=values.dtype, chunks=(64,), shards=(256,), overwrite=True
            )
            array[:] = values
            array.attrs.update(attributes)
        return
    attributes = dict(group["X"].attrs)
    array = group.create_array(
        "X", shape=adata.shape, dtype=adata.X.dtype, chunks=(3, 50), shards=(9, 100), overwrite=True
    )
    array[:] = adata.X
    array.attrs.update(attributes)


# Kind of file, and how it is written and opened.
FILES = {"h5ad": {}, "h5ad backed": {}, "zarr 2": {"zarr_format": 2}, "zarr 3": {"zarr_format": 3}}
FILES["zarr 3 sharded"] = {"zarr_format": 3, "sharded": True}


@contextmanager
def stored(adata: ad.AnnData, kind: str, folder: Path) -> Iterator[ad.AnnData]:
    """Write cells and open them without reading the matrix."""
    path = folder / f"cells.{kind.split()[0]}"
    write(adata, path, **FILES[kind])
    if kind == "h5ad backed":
        backed = ad.read_h5ad(path, backed="r")
        yield backed
        backed.file.close()
        return
    with open_cells(path) as opened:
        yield opened


SLOTS = {"X": {}, "layer": {"layer": "counts"}, "raw": {"use_raw": True}}
WINDOW = 16


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sfm.settings, "window_size", WINDOW)
    monkeypatch.setattr(sfm.settings, "chunk_size", 11)
    monkeypatch.setattr(sfm.settings, "warn_gene_coverage", 0.0)  # views have fewer genes


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return toy_model("values").tokenizer


@pytest.fixture(scope="module")
def expected(tokenizer: Tokenizer) -> TokenizedCells:
    """Tokens of all cells at once."""
    adata = toy_cells(60)
    return tokenizer(adata.X, sfm.genes.align_genes(adata.var_names, tokenizer.vocabulary).token_ids)


def assert_equal(cells: TokenizedCells, expected: TokenizedCells) -> None:
    for name in ("indptr", "input_ids", "values"):
        assert np.array_equal(getattr(cells, name), getattr(expected, name)), name


def streamed(adata: ad.AnnData, tokenizer: Tokenizer, **options: Any) -> TokenizedCells:
    """Tokens of all windows, whose bounds must be those of a file read from its beginning."""
    windows = list(stream_cells(adata, tokenizer, model_name="toy", **options).windows())
    starts = range(0, adata.n_obs, WINDOW)
    assert [rows for rows, _ in windows] == [slice(i, min(i + WINDOW, adata.n_obs)) for i in starts]
    assert [len(cells) for _, cells in windows] == [rows.stop - rows.start for rows, _ in windows]
    return TokenizedCells.concatenate([cells for _, cells in windows])


def check(adata: ad.AnnData, tokenizer: Tokenizer, expected: TokenizedCells, **options: Any) -> None:
    assert_equal(streamed(adata, tokenizer, **options), expected)
    assert_equal(encode_cells(adata, tokenizer, model_name="toy", **options).cells, expected)


@pytest.mark.parametrize("options", SLOTS.values(), ids=SLOTS)
@pytest.mark.parametrize("make", IN_MEMORY.values(), ids=IN_MEMORY)
def test_arrays_in_memory(make: Any, options: Any, tokenizer: Tokenizer, expected: TokenizedCells) -> None:
    adata = toy_cells(60)
    check(with_matrix(adata, make(adata.X)), tokenizer, expected, **options)


@pytest.mark.parametrize("matrix", FORMATS)
@pytest.mark.parametrize("kind", FILES)
def test_files(kind: str, matrix: str, tmp_path: Path, tokenizer: Tokenizer, expected: TokenizedCells) -> None:
    adata = toy_cells(60)
    with stored(with_matrix(adata, FORMATS[matrix](adata.X)), kind, tmp_path) as opened:
        for options in SLOTS.values():
            check(opened, tokenizer, expected, **options)


@pytest.mark.parametrize("columns", [None, 110])
@pytest.mark.parametrize("block", ["csr", "csc", "dense", "csr_array"])
def test_dask(block: str, columns: int | None, tokenizer: Tokenizer, expected: TokenizedCells) -> None:
    adata = toy_cells(60)
    adata.X = as_dask(adata.X, block, columns=columns)
    adata.layers["counts"] = adata.X
    for options in ({}, {"layer": "counts"}):
        check(adata, tokenizer, expected, **options)


VIEWED = ["csr", "csc", "dense", "unsorted csc", "dask", "h5ad backed csr", "h5ad csc", "zarr 3 csr", "zarr 2 dense"]


@pytest.fixture(scope="module", params=VIEWED)
def viewed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ad.AnnData]:
    adata, name = toy_cells(60), request.param
    if name in IN_MEMORY:
        yield with_matrix(adata, IN_MEMORY[name](adata.X))
    elif name == "dask":
        yield ad.AnnData(as_dask(adata.X, "csr"), obs=adata.obs, var=adata.var)
    else:
        kind, _, matrix = name.rpartition(" ")
        with stored(
            ad.AnnData(FORMATS[matrix](adata.X), adata.obs, adata.var), kind, tmp_path_factory.mktemp("v")
        ) as a:
            yield a


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
@settings(max_examples=8)
@given(data=st.data())
def test_views(viewed: ad.AnnData, data: st.DataObject, tokenizer: Tokenizer) -> None:
    """Rows in any order, some more than once, and genes in any order; views of views too."""
    rows = data.draw(st.lists(st.integers(0, 59), min_size=1, max_size=60))
    genes = np.random.default_rng(data.draw(st.integers(0, 99))).permutation(300)[:250]
    kept = data.draw(st.sampled_from([slice(None), slice(1, None, 2), slice(None, 5)]))
    adata = toy_cells(60)
    expected = adata[rows].copy()[kept, genes].copy()
    if expected.n_obs == 0:
        return
    chosen = np.array(rows)
    # anndata makes no view of a view of a backed file
    view = viewed[chosen[kept], genes] if viewed.isbacked else viewed[chosen][kept, genes]
    assert view.is_view
    check(view, tokenizer, encode_cells(expected, tokenizer, model_name="toy").cells)


def test_a_view_is_not_copied() -> None:
    adata = toy_cells(60)
    view = adata[10:40]
    matrix = sfm._matrix.select_matrix(view)
    chunks = [counts for _, counts in matrix.chunks()]
    assert all(np.shares_memory(counts.data, adata.X.data) for counts in chunks)
    assert view.is_view
