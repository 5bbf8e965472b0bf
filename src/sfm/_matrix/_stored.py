"""Whether sparse matrices in files are complete: what a copy lost is read as zeros, without an error.

Dense ones are not checked: zarr leaves out chunks that hold zeros alone, so one that was lost looks like genes that some
cells do not express. Cells without any count are reported as empty, wherever they come from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

_PIECE = 1 << 21


def refuse_incomplete(X: Any, slot: str) -> None:
    """Raise if a stored CSR or CSC matrix contradicts itself.

    Raises
    ------
    ValueError
        If its three arrays do not fit each other, or chunks of a zarr store are not there.
    """
    group = X.group
    indptr = np.asarray(group["indptr"][:])
    sizes = {int(indptr[-1]), group["indices"].shape[0], group["data"].shape[0]}
    if indptr[0] != 0 or len(sizes) > 1 or (indptr[1:] < indptr[:-1]).any():
        raise _incomplete(slot, "its `indptr` does not fit the values")
    if _lacks_chunks(group["data"]):  # stored values are not zero
        raise _incomplete(slot, "chunks of `data` are missing")
    if _lacks_chunks(group["indices"]) and any(_repeated_zeros(group["indices"], indptr)):
        raise _incomplete(slot, "chunks of `indices` are missing")


def _lacks_chunks(array: Any) -> bool:
    """Whether a zarr array has fewer chunks than its shape says; chunks of zeros alone are not written."""
    return hasattr(array, "nchunks_initialized") and array.nchunks_initialized < array.nchunks


def _repeated_zeros(indices: Any, indptr: np.ndarray) -> Iterator[bool]:
    """Yield for each piece whether a row holds its first column twice, as where a chunk is missing."""
    starts = np.zeros(indices.shape[0] + 1, dtype=bool)
    starts[indptr] = True
    for first in range(0, indices.shape[0], _PIECE):
        is_zero = np.asarray(indices[first : first + _PIECE + 1]) == 0  # one more, so that pairs are not cut
        yield bool((is_zero[1:] & is_zero[:-1] & ~starts[first + 1 : first + is_zero.size]).any())


def _incomplete(slot: str, why: str) -> ValueError:
    msg = (
        f"{slot} is not complete: {why}, as after a copy that was broken off. Copy the file again; if it stores zeros, "
        "write it anew after `eliminate_zeros()`."
    )
    return ValueError(msg)
