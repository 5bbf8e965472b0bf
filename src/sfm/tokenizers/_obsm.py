"""The layout of tokens in `obsm`: CSR whose column is the position in the cell's sequence."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse


def positions(indptr: np.ndarray) -> np.ndarray:
    """Return 0, 1, 2, ... anew for each row; int32 unless rows are longer than that can hold."""
    lengths = np.diff(indptr)
    count = int(indptr[-1])
    dtype = np.int32 if count <= np.iinfo(np.int32).max else np.int64
    filled = np.flatnonzero(lengths)
    starts = indptr[filled]
    steps = np.ones(count, dtype=dtype)
    steps[starts[:1]] = 0
    steps[starts[1:]] -= lengths[filled[:-1]].astype(dtype)
    return np.cumsum(steps, dtype=dtype, out=steps)


def check_positions(tokens: Any) -> None:
    """Raise unless `tokens` is CSR with positions 0, 1, 2, ... in every row."""
    if not (sparse.issparse(tokens) and tokens.format == "csr"):
        msg = f"tokens is a {type(tokens).__name__}, not CSR. Pass adata.obsm['tokens'] as sfm.pp.tokenize wrote it."
        raise ValueError(msg)
    steps = np.diff(tokens.indices)
    starts = tokens.indptr[:-1][np.diff(tokens.indptr) > 0]
    steps[starts[1:] - 1] = 1
    if np.all(steps == 1) and not tokens.indices[starts].any():
        return
    msg = (
        "The positions of the tokens of some cells are not 0, 1, 2, ... in order, so tokens were dropped or reordered. "
        "Run sfm.pp.tokenize again."
    )
    raise ValueError(msg)


def check_values(tokens: Any, values: Any) -> None:
    """Raise unless `values` stores exactly the positions of `tokens`."""
    check_positions(values)
    if tokens.shape != values.shape or not np.array_equal(tokens.indptr, values.indptr):
        msg = (
            f"values, of shape {values.shape!r} with {values.nnz} entries, does not have the positions of tokens, of "
            f"shape {tokens.shape!r} with {tokens.nnz} entries. Run sfm.pp.tokenize again; stored zeros must be kept."
        )
        raise ValueError(msg)
