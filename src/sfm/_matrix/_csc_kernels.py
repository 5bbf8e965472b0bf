"""Compiled parts of `_csc`, apart since numba takes a while to import."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)
def rows_of_csc(  # type: ignore[no-untyped-def]
    data, indices, indptr, first, last
):
    """Return data, indices and indptr (CSR) of some rows of a CSC matrix whose row numbers rise in every column."""
    n_columns = indptr.size - 1
    starts = np.empty(n_columns, np.int64)
    row_ptr = np.zeros(last - first + 1, np.int64)
    for column in range(n_columns):
        begin, end = indptr[column], indptr[column + 1]
        place = begin + np.searchsorted(indices[begin:end], first)
        starts[column] = place
        while place < end and indices[place] < last:
            row_ptr[indices[place] - first + 1] += 1
            place += 1
    row_ptr = np.cumsum(row_ptr)
    free = row_ptr[:-1].copy()
    values = np.empty(row_ptr[-1], data.dtype)
    columns = np.empty(row_ptr[-1], np.int32)
    for column in range(n_columns):
        place, end = starts[column], indptr[column + 1]
        while place < end and indices[place] < last:
            row = indices[place] - first
            values[free[row]] = data[place]
            columns[free[row]] = column
            free[row] += 1
            place += 1
    return values, columns, row_ptr
