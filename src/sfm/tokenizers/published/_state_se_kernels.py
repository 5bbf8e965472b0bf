"""Compiled loops that fill cells up with genes that they do not express."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def fill_up(  # noqa: PLR0917
    tokens: np.ndarray,
    values: np.ndarray,
    indptr: np.ndarray,
    order: np.ndarray,
    place: np.ndarray,
    max_length: int,
    last_token: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Append filler in its order, with value 0, and a last token to cells that begin with `<cls>`.

    `place` says where a token stands in `order`, `order.size` if nowhere. Cells of `<cls>` alone get no filler.
    """
    n_cells = indptr.size - 1
    out_ptr = np.zeros(n_cells + 1, dtype=np.int64)
    for row in range(n_cells):
        n_genes = indptr[row + 1] - indptr[row] - 1
        room = max_length - 2 - n_genes
        n_free = order.size
        for i in range(indptr[row], indptr[row + 1]):
            n_free -= place[tokens[i]] < order.size
        n_filler = min(room, n_free) if n_genes > 0 else 0
        out_ptr[row + 1] = out_ptr[row] + n_genes + 2 + n_filler
    out = np.full(out_ptr[-1], last_token, dtype=np.int32)
    out_values = np.zeros(out_ptr[-1], dtype=np.float32)
    seen_in = np.full(order.size + 1, -1, dtype=np.int64)
    for row in range(n_cells):
        end = out_ptr[row]
        for i in range(indptr[row], indptr[row + 1]):
            out[end], out_values[end] = tokens[i], values[i]
            seen_in[place[tokens[i]]] = row
            end += 1
        gene = 0
        while end < out_ptr[row + 1] - 1:
            if seen_in[gene] != row:
                out[end] = order[gene]
                end += 1
            gene += 1
    return out, out_values, out_ptr
