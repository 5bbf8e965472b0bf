"""Windows of cells: where they begin, what is checked before and while they are made."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import dask.array as da
import numpy as np
import pytest
from scipy import sparse

import sfm
from sfm.data import encode_cells, stream_cells
from sfm.data._stream import in_background
from sfm.datasets import toy_cells, toy_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sfm.tokenizers import TokenizedCells, Tokenizer


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sfm.settings, "window_size", 16)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return toy_model("values").tokenizer


def as_dask(X: sparse.csr_matrix, rows: int = 17) -> da.Array:
    return da.from_array(X.toarray(), chunks=(rows, -1)).map_blocks(sparse.csr_matrix)


def assert_equal(cells: TokenizedCells, expected: TokenizedCells) -> None:
    for name in ("indptr", "input_ids", "values"):
        assert np.array_equal(getattr(cells, name), getattr(expected, name)), name


@pytest.mark.parametrize("start", [0, 16, 48, 60])
@pytest.mark.parametrize("stop", [48, 60, None])
@pytest.mark.parametrize("rows", [None, 7, 25])
def test_windows_of_a_part_are_those_of_the_whole(
    start: int, stop: int | None, rows: int | None, tokenizer: Tokenizer
) -> None:
    adata = toy_cells(60)
    if rows is not None:
        adata.X = as_dask(adata.X, rows)
    stream = stream_cells(adata, tokenizer, model_name="toy")
    whole = {window.start: (window, cells) for window, cells in stream.windows()}
    part = list(stream.windows(start=start, stop=stop))
    assert [window.start for window, _ in part] == [at for at in whole if start <= at < (stop or 60)]
    for window, cells in part:
        assert window == whole[window.start][0]
        assert_equal(cells, whole[window.start][1])


@pytest.mark.parametrize(("start", "stop"), [(3, None), (0, 20), (-16, None), (64, None), (0, 61)])
def test_windows_begin_where_windows_begin(start: int, stop: int | None, tokenizer: Tokenizer) -> None:
    stream = stream_cells(toy_cells(60), tokenizer, model_name="toy")
    with pytest.raises(ValueError, match=r"(start|stop)=-?\d+ does not begin a window: pass a multiple of 16 up to 60"):
        stream.windows(start=start, stop=stop)


def without_expression(tokenizer: Tokenizer, n_known: int) -> Tokenizer:
    vocabulary = sfm.GeneVocabulary(list(toy_cells(60).var_names[:n_known]))
    return type(tokenizer)(vocabulary, max_length=64)


def test_coverage_by_counts_is_gated_before_the_first_window(tokenizer: Tokenizer) -> None:
    adata = toy_cells(60)
    few = without_expression(tokenizer, 1)
    adata.X[:, 0] = 0
    adata.X.eliminate_zeros()
    adata.X = adata.X.tocsr()
    for X in (adata.X, as_dask(adata.X)):
        adata.X = X
        with pytest.raises(ValueError, match=r"toy knows too few of the genes.*1 of 300"):
            stream_cells(adata, few, model_name="toy")


def test_params_are_those_of_cells_in_memory(tokenizer: Tokenizer) -> None:
    for chosen in (tokenizer, without_expression(tokenizer, 200)):
        streams = [make(toy_cells(60), chosen, model_name="toy") for make in (stream_cells, encode_cells)]
        assert streams[0].params() == streams[1].params()


def test_every_chunk_passes_the_state_gate(tokenizer: Tokenizer, tmp_path: Path) -> None:
    adata = toy_cells(600)
    adata.X[599, 3] = 0.5
    adata.layers["counts"] = toy_cells(600).X
    message = r"adata.X holds almost integers.*adata.layers\['counts'\] holds counts: pass layer='counts'"
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with sfm.data.open_cells(tmp_path / "cells.h5ad") as opened:
        for cells in (adata, opened, adata[1:]):
            windows = stream_cells(cells, tokenizer, model_name="toy").windows()
            with pytest.raises(ValueError, match=message):
                list(windows)


def test_a_wrong_state_is_told_before_the_first_window(tokenizer: Tokenizer) -> None:
    adata = toy_cells(60)
    adata.X = adata.X * np.float32(0.3)
    with pytest.raises(ValueError, match="adata.X holds"):
        stream_cells(adata, tokenizer, model_name="toy")


def test_the_next_window_is_made_while_one_is_used() -> None:
    made, threads = [], set()

    def numbers() -> Iterator[int]:
        for i in range(4):
            made.append(i)
            threads.add(threading.current_thread())
            yield i

    used = in_background(numbers())
    assert next(used) == 0
    assert next(used) == 1
    assert len(made) <= 3, "only one is made ahead"
    assert list(used) == [2, 3]
    assert threading.current_thread() not in threads


def test_errors_of_the_background_are_raised_and_its_thread_ends() -> None:
    def numbers() -> Iterator[int]:
        yield 1
        msg = "broken"
        raise KeyError(msg)

    before = threading.active_count()
    with pytest.raises(KeyError, match="broken"):
        list(in_background(numbers()))
    abandoned = in_background(iter(range(10)))
    next(abandoned)
    abandoned.close()
    assert threading.active_count() == before
