"""Quantile bins by the arithmetic of `torch.quantile` and `torch.bucketize` in single precision."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def _quantile(descending: np.ndarray, probability: np.float32) -> np.float32:
    last = descending.size - 1
    position = np.float32(probability * np.float32(last))
    below = int(np.floor(position))
    above = int(np.ceil(position))
    weight = np.float32(position - np.float32(below))
    low, high = np.float32(descending[last - below]), np.float32(descending[last - above])
    difference = np.float64(np.float32(high - low))
    # Torch fuses product and sum, which double precision stands for.
    if weight < 0.5:
        return np.float32(np.float64(weight) * difference + np.float64(low))
    return np.float32(np.float64(np.float32(weight - np.float32(1))) * difference + np.float64(high))


@numba.njit(cache=True, nogil=True)
def _bins(counts: np.ndarray, indptr: np.ndarray, probabilities: np.ndarray, right: bool, bins: np.ndarray) -> None:  # noqa: FBT001
    edges = np.empty(probabilities.size, dtype=np.float32)
    for row in range(indptr.size - 1):
        start, stop = indptr[row], indptr[row + 1]
        if start == stop:
            continue
        for i in range(edges.size):
            edges[i] = _quantile(counts[start:stop], probabilities[i])
        place = edges.size
        for i in range(start, stop):
            count = np.float32(counts[i])
            while place > 0 and (edges[place - 1] > count or (edges[place - 1] == count and not right)):
                place -= 1
            bins[i] = place if right else place + 1


def bucketized(counts: np.ndarray, indptr: np.ndarray, n_bins: int, *, right: bool = False) -> np.ndarray:
    """Return the bin of each count, descending within rows, among the quantiles of its row.

    Parameters
    ----------
    counts
        Counts, shape `(nnz,)`.
    indptr
        Where the rows begin, shape `(n_rows + 1,)`.
    n_bins
        Number of bins, that of zero included.
    right
        Bins are those of `torch.bucketize(..., right=True)` instead of one more than the index of the first edge that
        is not below the count.

    Returns
    -------
    float32 of shape `(nnz,)`.
    """
    import torch

    probabilities = torch.linspace(0, 1, n_bins - 1, dtype=torch.float32).numpy()
    bins = np.empty(counts.size, dtype=np.float32)
    _bins(np.asarray(counts), indptr, probabilities, right, bins)
    return bins
