"""Blocks of dask arrays are tokenized and embedded where they are made: each once, in order, a few at a time."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anndata as ad
import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sfm
from sfm._matrix import select_matrix
from sfm._matrix._dask import map_row_blocks
from sfm.data import encode_cells, stream_cells
from sfm.datasets import toy_cells, toy_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sfm.checkpoints import PretrainedCells

SCHEDULERS = ["synchronous", "threads"]
TOLERANCE = {"atol": 1e-5, "rtol": 0}


class CountedBlocks:
    """A dask array that records which of its blocks are computed, and in which threads."""

    def __init__(self, X: sparse.csr_matrix, *, rows: int) -> None:
        self.computed: list[int] = []
        self.threads: set[int] = set()
        starts = range(0, X.shape[0], rows)
        blocks = [
            da.from_delayed(
                dask.delayed(self._block)(X, start, rows),
                shape=(min(rows, X.shape[0] - start), X.shape[1]),
                dtype=X.dtype,
                meta=sparse.csr_matrix((0, 0), dtype=X.dtype),
            )
            for start in starts
        ]
        self.array = da.concatenate(blocks)

    def _block(self, X: sparse.csr_matrix, start: int, rows: int) -> sparse.csr_matrix:
        self.computed.append(start // rows)
        self.threads.add(threading.get_ident())
        return X[start : start + rows]

    def __dask_tokenize__(self) -> str:
        return "counted blocks"


@pytest.fixture(scope="module")
def pretrained() -> PretrainedCells:
    return toy_model()


@pytest.fixture(scope="module")
def expected(pretrained: PretrainedCells) -> ad.AnnData:
    """Tokens and vectors of the cells in memory."""
    adata = toy_cells(60)
    sfm.pp.tokenize(adata, pretrained)
    sfm.tl.embed(adata, pretrained)
    return adata


def assert_as_expected(adata: ad.AnnData, expected: ad.AnnData) -> None:
    assert (adata.obsm["tokens"] != expected.obsm["tokens"]).nnz == 0
    np.testing.assert_allclose(adata.obsm["X_sfm"], expected.obsm["X_sfm"], **TOLERANCE)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_block_is_computed_once(scheduler: str, pretrained: PretrainedCells, expected: ad.AnnData) -> None:
    adata = toy_cells(60)
    for function in (sfm.pp.tokenize, sfm.tl.embed):
        blocks = CountedBlocks(toy_cells(60).X, rows=7)
        adata.X = blocks.array
        with dask.config.set(scheduler=scheduler, num_workers=2):
            function(adata, pretrained)
        assert sorted(blocks.computed) == list(range(9))
        assert threading.get_ident() not in blocks.threads or function is sfm.pp.tokenize
    assert isinstance(adata.X, da.Array)
    assert_as_expected(adata, expected)


def test_other_readers_compute_every_block_once() -> None:
    blocks = CountedBlocks(toy_cells(60).X, rows=7)
    adata = ad.AnnData(blocks.array)
    chunks = list(select_matrix(adata).chunks(5))
    assert blocks.computed == list(range(9)) or sorted(blocks.computed) == list(range(9))
    assert [rows.start for rows, _ in chunks][:4] == [0, 5, 7, 12]
    assert (sparse.vstack([counts for _, counts in chunks]) != toy_cells(60).X).nnz == 0


def test_few_blocks_are_under_way() -> None:
    blocks = CountedBlocks(toy_cells(60).X, rows=3)
    with dask.config.set(scheduler="threads", num_workers=2):
        results = map_row_blocks(blocks.array, "adata.X", lambda block: block.shape[0])
        next(results)
        assert len(blocks.computed) <= 2
        assert sum(n for _, n in results) == 57


def test_only_blocks_of_the_range_are_computed() -> None:
    blocks = CountedBlocks(toy_cells(60).X, rows=10)
    results = map_row_blocks(blocks.array, "adata.X", lambda block: block.shape[0], start=25, stop=40)
    assert [(rows.start, n) for rows, n in results] == [(20, 10), (30, 10)]
    assert sorted(blocks.computed) == [2, 3]


def test_blocks_without_rows_are_left_out(pretrained: PretrainedCells, expected: ad.AnnData) -> None:
    X = toy_cells(60).X
    parts = [da.from_array(X[rows].toarray(), chunks=-1) for rows in (slice(0, 20), slice(0, 0), slice(20, 60))]
    adata = toy_cells(60)
    adata.X = da.concatenate(parts, axis=0, allow_unknown_chunksizes=True).map_blocks(sparse.csr_matrix)
    sfm.pp.tokenize(adata, pretrained)
    sfm.tl.embed(adata, pretrained)
    assert_as_expected(adata, expected)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_wrong_state_reads_as_in_memory(scheduler: str, pretrained: PretrainedCells) -> None:
    adata = toy_cells(60)
    adata.X[50] *= 0.5
    adata.layers["counts"] = toy_cells(60).X
    with pytest.raises(ValueError, match="adata.X holds") as in_memory:
        encode_cells(adata[49:], pretrained.tokenizer, model_name="toy")
    adata.X = da.from_array(adata.X.toarray(), chunks=(49, -1)).map_blocks(sparse.csr_matrix)
    with dask.config.set(scheduler=scheduler):
        for function in (sfm.pp.tokenize, sfm.tl.embed):
            with pytest.raises(ValueError, match="adata.X holds") as of_blocks:
                function(adata, pretrained)
            assert str(of_blocks.value) == str(in_memory.value)
    assert not adata.obsm
    assert not adata.uns


def test_other_blocks_are_named(pretrained: PretrainedCells) -> None:
    adata = toy_cells(60)
    adata.X = da.from_array(adata.X.toarray(), chunks=(20, -1)).map_blocks(pd.DataFrame, meta=np.zeros((0, 0)))
    with pytest.raises(
        NotImplementedError, match="adata.X is a dask array whose blocks are of type DataFrame. Supported"
    ):
        encode_cells(adata, pretrained.tokenizer, model_name="toy")


def test_unknown_sizes_are_named() -> None:
    X = da.from_array(toy_cells(60).X.toarray(), chunks=(20, -1))
    unknown = X[X[:, 0] >= 0]
    with pytest.raises(ValueError, match="adata.X is a dask array with blocks of unknown size"):
        list(map_row_blocks(unknown, "adata.X", np.shape))


@contextmanager
def two_workers() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with (
        dask.config.set({"distributed.worker.daemon": False, "distributed.admin.log-format": "%(message)s"}),
        distributed.LocalCluster(**options) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def assert_nothing_is_left(client: Any) -> None:
    for _ in range(100):
        n_tasks = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
        if n_tasks == 0:
            return
        time.sleep(0.1)
    pytest.fail(f"{n_tasks} tasks are left on the cluster")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_a_cluster_of_two_workers(pretrained: PretrainedCells, expected: ad.AnnData) -> None:
    X = toy_cells(60).X
    adata = toy_cells(60)
    adata.X = da.from_array(X.toarray(), chunks=(7, 110)).map_blocks(sparse.csr_matrix)
    adata.layers["log"] = adata.X.map_blocks(np.log1p)
    with two_workers() as client:
        sfm.pp.tokenize(adata, pretrained)
        sfm.tl.embed(adata, pretrained)
        assert_as_expected(adata, expected)
        params = adata.uns["X_sfm"]["params"]
        assert params == {**expected.uns["X_sfm"]["params"]}

        assert_nothing_is_left(client)

        view = adata[[5, 3, 40]]
        stream = stream_cells(view, pretrained.tokenizer, model_name="toy")
        ((_, cells),) = stream.windows()
        assert np.array_equal(cells.lengths, expected.obsm["tokens"][[5, 3, 40]].getnnz(axis=1))

        with pytest.raises(ValueError, match=r"adata.layers\['log'\] holds log1p.*adata.X holds counts: pass neither"):
            sfm.tl.embed(adata, pretrained, layer="log")
