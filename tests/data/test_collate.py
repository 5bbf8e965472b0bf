"""Padding cells into minibatches."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfm.data._collate import gather
from sfm.data._loader import collate
from sfm.tokenizers import TokenizedCells

cells_of = st.lists(st.lists(st.integers(1, 60_000), max_size=9), min_size=1, max_size=20)


def ragged(cells: list[list[int]], *, dtype: type = np.int32, with_values: bool = False) -> SimpleNamespace:
    input_ids = np.array(sum(cells, []), dtype=dtype)
    values = np.arange(input_ids.size, dtype=np.float32) + 0.5 if with_values else None
    return SimpleNamespace(input_ids=input_ids, indptr=np.cumsum([0, *map(len, cells)]), values=values)


@given(cells_of, st.data(), st.sampled_from([np.uint16, np.int32]), st.booleans(), st.sampled_from([None, 0, 7]))
def test_minibatches_are_the_cells_padded_on_the_right(
    cells: list[list[int]], data: st.DataObject, dtype: type, with_values: bool, pad_id: int | None
) -> None:
    rows = data.draw(st.lists(st.integers(0, len(cells) - 1), min_size=1, max_size=30))
    source = ragged(cells, dtype=dtype, with_values=with_values)
    minibatch = collate(source, rows, pad_id=pad_id)
    longest = max(1, *(len(cells[i]) for i in rows))
    assert set(minibatch) == {"input_ids", "attention_mask"} | ({"values"} if with_values else set())
    for tensor in minibatch.values():
        assert tensor.shape == (len(rows), longest)
    for k, i in enumerate(rows):
        n = len(cells[i])
        assert minibatch["input_ids"][k].tolist() == cells[i] + [pad_id or 0] * (longest - n)
        assert minibatch["attention_mask"][k].tolist() == [1] * n + [0] * (longest - n)
        if with_values:
            own = source.values[source.indptr[i] : source.indptr[i + 1]].tolist()
            assert minibatch["values"][k].tolist() == own + [0.0] * (longest - n)


@given(cells_of, st.data())
def test_gathered_cells_are_those_of_the_sequence(cells: list[list[int]], data: st.DataObject) -> None:
    rows = np.array(data.draw(st.lists(st.integers(0, len(cells) - 1), max_size=30)), dtype=np.int64)
    source = ragged(cells, with_values=True)
    input_ids, indptr, values = gather(source, rows)
    expected = TokenizedCells(source.input_ids, source.indptr, values=source.values, max_length=9)[rows]
    assert np.array_equal(input_ids, expected.input_ids)
    assert np.array_equal(indptr, expected.indptr)
    assert np.array_equal(values, expected.values)


@pytest.mark.parametrize("row", [-1, 3])
def test_rows_out_of_range_are_refused(row: int) -> None:
    with pytest.raises(IndexError, match="there are 3 cells"):
        collate(ragged([[1], [2], [3]]), [0, row], pad_id=0)


@pytest.mark.parametrize("indptr", [[0, 2, 1, 3], [0, -1, 2, 3], [0, 1, 9, 3]])
def test_damaged_cells_are_refused(indptr: list[int]) -> None:
    source = ragged([[1], [2], [3]])
    source.indptr = np.array(indptr)
    with pytest.raises(IndexError, match="tokens are damaged"):
        collate(source, [0, 1], pad_id=0)
