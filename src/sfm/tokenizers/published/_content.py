"""Random choices that follow from a cell's own content, in place of those of a random number generator.

A cell then gets the same tokens alone and among others, in any order of cells and of genes. Hashes are those of
SplitMix64 (Steele, Lea and Flood 2014, OOPSLA, 453-472).
"""

from __future__ import annotations

import numba
import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)


@numba.njit(cache=True, nogil=True, inline="always")
def _mix(number: np.uint64) -> np.uint64:
    number += _GAMMA
    number = (number ^ (number >> _30)) * _FIRST
    number = (number ^ (number >> _27)) * _SECOND
    return number ^ (number >> _31)


@numba.njit(cache=True, nogil=True)
def _seeds(token_ids: np.ndarray, count_bits: np.ndarray, indptr: np.ndarray, seeds: np.ndarray) -> None:
    for row in range(seeds.size):
        total = np.uint64(0)
        for i in range(indptr[row], indptr[row + 1]):
            if count_bits[i] << np.uint64(1):  # neither 0.0 nor -0.0
                total += _mix(_mix(np.uint64(token_ids[i])) ^ count_bits[i])
        seeds[row] = _mix(total)


@numba.njit(cache=True, nogil=True)
def _keys(seeds: np.ndarray, token_ids: np.ndarray, indptr: np.ndarray, keys: np.ndarray) -> None:
    for row in range(seeds.size):
        for i in range(indptr[row], indptr[row + 1]):
            keys[i] = _mix(seeds[row] ^ _mix(np.uint64(token_ids[i])))


def content_seeds(token_ids: np.ndarray, counts: np.ndarray, indptr: np.ndarray) -> np.ndarray:
    """Return a seed for each cell, which depends on its genes and their counts alone, not on their order.

    Parameters
    ----------
    token_ids
        Token of each count, or whatever else numbers the genes: integers of shape `(nnz,)`, each gene once per cell.
    counts
        Counts, shape `(nnz,)`; stored zeros make no difference.
    indptr
        Cell `i` owns `counts[indptr[i]:indptr[i + 1]]`; shape `(n_cells + 1,)`.

    Returns
    -------
    uint64 of shape `(n_cells,)`.

    Examples
    --------
    >>> import numpy as np
    >>> from sfm.tokenizers.published._content import content_seeds
    >>> tokens, counts = np.array([5, 9, 9, 5, 7]), np.array([1.0, 2.0, 2.0, 1.0, 0.0])
    >>> one, other = content_seeds(tokens, counts, np.array([0, 2, 5]))
    >>> bool(one == other)
    True
    """
    seeds = np.empty(indptr.size - 1, dtype=np.uint64)
    bits = np.ascontiguousarray(counts, dtype=np.float64).view(np.uint64)
    _seeds(np.ascontiguousarray(token_ids, dtype=np.int64), bits, np.asarray(indptr, dtype=np.int64), seeds)
    return seeds


def hashed_keys(seeds: np.ndarray, token_ids: np.ndarray, indptr: np.ndarray) -> np.ndarray:
    """Return a number for each gene of each cell, uniform over all of 64 bits, whatever the order of the genes.

    Parameters
    ----------
    seeds
        Seed of each cell, as :func:`content_seeds` returns them, uint64 of shape `(n_cells,)`. For a second, independent
        number add a constant to them.
    token_ids
        Token of each gene, shape `(nnz,)`.
    indptr
        Where the cells begin, shape `(n_cells + 1,)`.

    Returns
    -------
    uint64 of shape `(nnz,)`.
    """
    keys = np.empty(token_ids.size, dtype=np.uint64)
    tokens = np.ascontiguousarray(token_ids, dtype=np.int64)
    _keys(np.asarray(seeds, dtype=np.uint64), tokens, np.asarray(indptr, dtype=np.int64), keys)
    return keys


def uniform(keys: np.ndarray) -> np.ndarray:
    """Turn hashed keys into float64 numbers in `[0, 1)`."""
    uniforms: np.ndarray = (keys >> np.uint64(11)) * 2.0**-53
    return uniforms


def sample_rows(keys: np.ndarray, indptr: np.ndarray, size: int) -> np.ndarray:
    """Choose at most `size` entries of each row without replacement: those with the lowest keys.

    Parameters
    ----------
    keys
        Key of each entry, for example of :func:`hashed_keys`, shape `(nnz,)`.
    indptr
        Where the rows begin, shape `(n_rows + 1,)`.
    size
        Most entries of a row.

    Returns
    -------
    Booleans of shape `(nnz,)`.
    """
    chosen = np.ones(keys.size, dtype=bool)
    for row in np.flatnonzero(np.diff(indptr) > size):
        start, stop = indptr[row], indptr[row + 1]
        chosen[start + np.argpartition(keys[start:stop], size)[size:]] = False
    return chosen
