"""Compiled loops that draw the genes of cells."""

from __future__ import annotations

import numba
import numpy as np

from sfm.tokenizers.published._content import _mix

_SHIFT = np.uint64(11)


@numba.njit(cache=True, nogil=True)
def _draw(weights: np.ndarray, seed: np.uint64, n_draws: int, times: np.ndarray) -> None:
    """Count how often each gene is drawn with replacement."""
    sums = np.cumsum(weights)
    for i in range(n_draws):
        uniform = (_mix(seed ^ _mix(np.uint64(i))) >> _SHIFT) * 2.0**-53
        gene = np.searchsorted(sums, uniform * sums[-1], side="right")
        times[min(gene, weights.size - 1)] += 1


@numba.njit(cache=True, nogil=True)
def draw_along_chromosomes(  # noqa: PLR0917
    tokens: np.ndarray,
    chromosomes: np.ndarray,
    counts: np.ndarray,
    indptr: np.ndarray,
    seeds: np.ndarray,
    n_draws: int,
    cls_id: int,
    right_id: int,
    max_length: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens of all cells, int32, and how many each has; genes must be in the order of their positions."""
    n_cells = seeds.size
    lengths = np.zeros(n_cells, dtype=np.int64)
    out = np.empty(n_cells * max_length, dtype=np.int32)
    end = 0
    for row in range(n_cells):
        start, stop = indptr[row], indptr[row + 1]
        limit = end + max_length
        first = end
        if cls_id >= 0:
            out[end] = cls_id
            end += 1
        times = np.zeros(stop - start, dtype=np.int64)
        weights = np.log1p(counts[start:stop])
        if weights.sum() > 0:
            _draw(weights, seeds[row], n_draws, times)
        chromosome = -1
        for i in range(start, stop):
            if times[i - start] == 0:
                continue
            if chromosomes[i] != chromosome:
                if chromosome >= 0 and end < limit:
                    out[end] = right_id
                    end += 1
                chromosome = chromosomes[i]
                if end < limit:
                    out[end] = chromosome
                    end += 1
            for _ in range(times[i - start]):
                if end < limit:
                    out[end] = tokens[i]
                    end += 1
        if chromosome >= 0 and end < limit:
            out[end] = right_id
            end += 1
        lengths[row] = end - first
    return out[:end].copy(), lengths
