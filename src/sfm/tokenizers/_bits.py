"""A bitmap that sorts: set one bit for each number, then read the numbers in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
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
        return builder.cttz(arguments[0], context.get_constant(types.boolean, 0))

    return types.uint64(types.uint64), generate


@intrinsic
def _count_bits(typing_context: Any, word: Any) -> tuple[Any, Callable[..., Any]]:
    """Number of bits that are set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


def empty_bits(size: int) -> np.ndarray:
    """Return a bitmap for numbers below `size`, in whole blocks of 64 words."""
    return np.zeros((size // 64**2 + 1) * 64, dtype=np.uint64)


@numba.njit(cache=True, nogil=True, inline="always")
def set_bit(bits: np.ndarray, number: int) -> None:
    """Put a number into the bitmap."""
    place = np.uint64(number)
    bits[place >> _SHIFT] |= _ONE << (place & _LOW)


@numba.njit(cache=True, nogil=True)
def _words_in_use(block: np.ndarray) -> int:
    """One bit for each of 64 words that is not zero; without branches, so that it is vectorised."""
    words = np.uint64(0)
    for i in range(64):
        words |= np.uint64(block[i] != 0) << np.uint64(i)
    return words  # type: ignore[return-value]


@numba.njit(cache=True, nogil=True)
def read_bits(bits: np.ndarray, numbers: np.ndarray) -> int:
    """Write the numbers in order, take them out of the bitmap, and return how many there are."""
    n = np.uint64(0)
    for start in range(0, bits.size, 64):
        words = _words_in_use(bits[start : start + 64])
        while words:
            word = np.uint64(start) + _lowest_bit(words)  # type: ignore[call-arg]
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
