"""Copying cells of different lengths: end to end, or padded into a minibatch."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Ragged(Protocol):
    """Cells whose tokens stand end to end: :class:`sfm.TokenizedCells`, or a token cache."""

    @property
    def input_ids(self) -> np.ndarray:
        """Token ids of all cells."""

    @property
    def indptr(self) -> np.ndarray:
        """Where each cell begins, and where the last one ends."""

    @property
    def values(self) -> np.ndarray | None:
        """Value of each token, or `None`."""


def lengths_of(cells: Ragged, rows: np.ndarray) -> np.ndarray:
    """Return the tokens of each of some cells; int64.

    Raises
    ------
    IndexError
        If there is no such cell, or the cells are not what their `indptr` says.
    """
    if rows.size == 0:
        return np.zeros(0, dtype=np.int64)
    if rows.min() < 0 or rows.max() >= cells.indptr.size - 1:
        msg = f"Cells {int(rows.min())} to {int(rows.max())} are out of range: there are {cells.indptr.size - 1} cells."
        raise IndexError(msg)
    starts, ends = cells.indptr[rows], cells.indptr[rows + 1]
    lengths: np.ndarray = ends - starts
    # The compiled loops check nothing, and files may be damaged.
    if lengths.min() < 0 or starts.min() < 0 or ends.max() > cells.input_ids.size:
        msg = (
            f"The {cells.input_ids.size} tokens are damaged: some cells begin or end outside of them. Make them again."
        )
        raise IndexError(msg)
    return lengths


def gather(cells: Ragged, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return token ids, `indptr` and values of some cells, in that order.

    Parameters
    ----------
    cells
        All cells.
    rows
        Which of them; int64, not negative.
    """
    from sfm.data._collate_kernels import gather_rows

    indptr = np.zeros(rows.size + 1, dtype=np.int64)
    np.cumsum(lengths_of(cells, rows), out=indptr[1:])
    input_ids = np.empty(indptr[-1], dtype=np.int32)
    gather_rows(cells.input_ids, cells.indptr, rows, input_ids, indptr)
    if cells.values is None:
        return input_ids, indptr, None
    values = np.empty(indptr[-1], dtype=np.float32)
    gather_rows(cells.values, cells.indptr, rows, values, indptr)
    return input_ids, indptr, values


def pad(cells: Ragged, rows: np.ndarray, *, pad_id: int) -> dict[str, np.ndarray]:
    """Return `input_ids`, `attention_mask` and `values` of some cells, padded on the right to the longest.

    Parameters
    ----------
    cells
        All cells.
    rows
        Which of them; int64, not negative.
    pad_id
        Token id of padding.
    """
    from sfm.data._collate_kernels import mark_rows, pad_rows

    lengths = lengths_of(cells, rows)
    shape = (rows.size, max(int(lengths.max(initial=0)), 1))
    padded = {"input_ids": np.empty(shape, dtype=np.int64), "attention_mask": np.empty(shape, dtype=np.int64)}
    pad_rows(cells.input_ids, cells.indptr, rows, pad_id, padded["input_ids"])
    mark_rows(lengths, padded["attention_mask"])
    if cells.values is not None:
        padded["values"] = np.empty(shape, dtype=np.float32)
        pad_rows(cells.values, cells.indptr, rows, 0.0, padded["values"])
    return padded
