"""Sorting counts that have no place in the table of ranks: large, fractional, or unusual for their gene."""

from __future__ import annotations

import numba
import numpy as np

# Up to this many are sorted by insertion alone.
_FEW = 32
_DIGIT = 11


@numba.njit(cache=True, nogil=True)
def sort_rest(scores: np.ndarray, counts: np.ndarray, tokens: np.ndarray) -> None:
    """Sort by score, negative and ascending; ties by token."""
    if scores.size > _FEW:
        order = _rough_order(scores, tokens)
        scores[:] = scores[order]
        counts[:] = counts[order]
        tokens[:] = tokens[order]
    for i in range(1, scores.size):
        score, count, token = scores[i], counts[i], tokens[i]
        j = i
        while j > 0 and (scores[j - 1] > score or (scores[j - 1] == score and tokens[j - 1] > token)):
            scores[j], counts[j], tokens[j] = scores[j - 1], counts[j - 1], tokens[j - 1]
            j -= 1
        scores[j], counts[j], tokens[j] = score, count, token


@numba.njit(cache=True, nogil=True)
def _rough_order(scores: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Radix sort by token, then by the leading 33 bits of the score: what is left are swaps of near neighbours."""
    order = np.arange(scores.size).astype(np.uint32)
    target = np.empty_like(order)
    keys = tokens.astype(np.uint64)
    largest = keys.max()
    shift = 0
    while largest >> np.uint64(shift):
        _radix_pass(keys, shift, order, target)
        order, target = target, order
        shift += _DIGIT
    keys = ~scores.view(np.uint64)  # the more negative a float, the larger its bits
    for shift in range(64 - 3 * _DIGIT, 64, _DIGIT):
        _radix_pass(keys, shift, order, target)
        order, target = target, order
    return order


@numba.njit(cache=True, nogil=True)
def _radix_pass(keys: np.ndarray, shift: int, order: np.ndarray, target: np.ndarray) -> None:
    """Write `order` to `target`, stably sorted by one digit of the keys."""
    mask = np.uint64((1 << _DIGIT) - 1)
    starts = np.zeros((1 << _DIGIT) + 1, dtype=np.int64)
    for key in keys:
        starts[((key >> np.uint64(shift)) & mask) + np.uint64(1)] += 1
    for digit in range(1, starts.size):
        starts[digit] += starts[digit - 1]
    for place in order:
        digit_of = (keys[place] >> np.uint64(shift)) & mask
        target[starts[digit_of]] = place
        starts[digit_of] += 1
