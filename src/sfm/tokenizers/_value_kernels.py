"""Compiled loops over the ranked counts of cells that give each token its value."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def _quantile(descending: np.ndarray, probability: float) -> float:
    """Return a quantile by the arithmetic of numpy's `linear` method, equal to the last bit."""
    last = descending.size - 1
    position = last * probability
    below = int(np.floor(position))
    low = descending[last - below]
    high = descending[last - min(below + 1, last)]
    weight = position - below
    if weight >= 0.5:
        return float(high - (high - low) * (1 - weight))
    return float(low + (high - low) * weight)


@numba.njit(cache=True, nogil=True)
def _bins(counts: np.ndarray, indptr: np.ndarray, probabilities: np.ndarray, bins: np.ndarray) -> None:
    edges = np.empty(probabilities.size)
    for row in range(indptr.size - 1):
        start, stop = indptr[row], indptr[row + 1]
        if start == stop:
            continue
        for i in range(edges.size):
            edges[i] = _quantile(counts[start:stop], probabilities[i])
        left = edges.size  # edges not above the count
        right = left  # edges below the count
        previous = np.inf
        middle = 0
        for i in range(start, stop):
            if counts[i] != previous:
                previous = counts[i]
                left = right
                while left > 0 and edges[left - 1] > previous:
                    left -= 1
                right = left
                while right > 0 and edges[right - 1] >= previous:
                    right -= 1
                middle = (right + 1 + left) // 2
            bins[i] = middle


def quantile_bins(counts: np.ndarray, indptr: np.ndarray, n_bins: int) -> np.ndarray:
    """Return the bin of each count, descending within rows, among the quantiles of its row; float32."""
    bins = np.empty(counts.size, dtype=np.float32)
    _bins(counts, indptr, np.linspace(0, 1, n_bins - 1), bins)
    return bins


@numba.njit(cache=True, nogil=True)
def log_normalize(counts: np.ndarray, indptr: np.ndarray) -> np.ndarray:
    """Return log1p of counts per 10,000 of their row, float32; equal neighbours are computed once."""
    values = np.empty(counts.size, dtype=np.float32)
    for row in range(indptr.size - 1):
        total = 0.0
        for i in range(indptr[row], indptr[row + 1]):
            total += counts[i]
        previous = -1.0
        value = np.float32(0)
        for i in range(indptr[row], indptr[row + 1]):
            if counts[i] != previous:
                previous = counts[i]
                value = np.float32(np.log1p(previous / total * 1e4))
            values[i] = value
    return values
