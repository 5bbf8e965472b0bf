"""A bitmap that sorts: set one bit for each number, then read the numbers in order.

A second bitmap marks the words of the first that hold any bit, so that reading skips the empty ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable

# Numbers that `read_bits` may write beyond the last.
SLACK = 6
_ONE = np.uint64(1)
_LOW = np.uint64(63)
_SHIFT = np.uint64(6)
_SLACK = np.uint64(SLACK)


@intrinsic
def _lowest_bit(typing_context: Any, word: Any) -> tuple[Any, Callable[..., Any]]:
    """Place of the lowest bit that is set, 64 for zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


@intrinsic
def _count_bits(typing_context: Any, word: Any) -> tuple[Any, Callable[..., Any]]:
    """Number of bits that are set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


def empty_bits(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the two bitmaps for numbers below `size`."""
    words = size // 64 + 1
    return np.zeros(words, dtype=np.uint64), np.zeros(words // 64 + 1, dtype=np.uint64)


@numba.njit(cache=True, nogil=True, inline="always")
def set_bit(bits: np.ndarray, used: np.ndarray, number: int) -> None:
    """Put a number into the bitmap."""
    place = np.uint64(number)
    word = place >> _SHIFT
    bits[word] |= _ONE << (place & _LOW)
    used[word >> _SHIFT] |= _ONE << (word & _LOW)


@numba.njit(cache=True, nogil=True)
def read_bits(bits: np.ndarray, used: np.ndarray, numbers: np.ndarray) -> int:
    """Write the numbers in order, take them out of the bitmap, and return how many there are."""
    n = np.uint64(0)
    for block in range(used.size):
        words = used[block]
        used[block] = 0
        while words:
            word = (np.uint64(block) << _SHIFT) | _lowest_bit(words)  # type: ignore[call-arg]
            words &= words - _ONE
            pending = bits[word]
            bits[word] = 0
            first = word << _SHIFT
            end = n + _count_bits(pending)
            # Always writing the same number at first spares the processor wrong guesses of how many there are.
            for i in range(SLACK):
                numbers[n + np.uint64(i)] = first + _lowest_bit(pending)
                pending &= pending - _ONE
            n += _SLACK
            while n < end:
                numbers[n] = first + _lowest_bit(pending)
                pending &= pending - _ONE
                n += _ONE
            n = end
    return int(n)
