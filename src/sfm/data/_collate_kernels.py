"""Compiled loops that copy cells of different lengths; nothing is checked in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba

if TYPE_CHECKING:
    import numpy as np


@numba.njit(cache=True, nogil=True)
def gather_rows(
    tokens: np.ndarray, indptr: np.ndarray, rows: np.ndarray, out: np.ndarray, out_indptr: np.ndarray
) -> None:
    """Copy the tokens of some cells, end to end."""
    for i in range(rows.size):
        # Slices of their own, so that the inner loop needs no wrapped indices and becomes vector instructions.
        place = out[out_indptr[i] : out_indptr[i + 1]]
        cell = tokens[indptr[rows[i]] : indptr[rows[i] + 1]]
        for k in range(place.size):
            place[k] = cell[k]


@numba.njit(cache=True, nogil=True)
def pad_rows(tokens: np.ndarray, indptr: np.ndarray, rows: np.ndarray, padding: float, out: np.ndarray) -> None:
    """Copy the tokens of each cell to a row of its own, shape `(cells, tokens)`, and pad it on the right."""
    for i in range(rows.size):
        cell = tokens[indptr[rows[i]] : indptr[rows[i] + 1]]
        place = out[i]
        for k in range(cell.size):
            place[k] = cell[k]
        place[cell.size :] = padding


@numba.njit(cache=True, nogil=True)
def mark_rows(lengths: np.ndarray, out: np.ndarray) -> None:
    """Write ones where tokens stand and zeros where padding does, shape `(cells, tokens)`."""
    for i in range(lengths.size):
        out[i, : lengths[i]] = 1
        out[i, lengths[i] :] = 0
