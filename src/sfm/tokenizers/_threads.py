"""Compiled loops on several cores: they release the interpreter, so that threads run side by side."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

import numba

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")


def thread_count() -> int:
    """Return the cores that may be used: those of this process, at most `NUMBA_NUM_THREADS` and `OMP_NUM_THREADS`."""
    allowed: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return max(min(allowed, int(first)), 1) if first.isdecimal() else allowed


def run_threads(scratches: Sequence[T], function: Callable[[T, int], object], n: int) -> None:
    """Call `function(scratch, i)` for `i` below `n`, one thread for each of the scratches; raise the first error."""
    free: SimpleQueue[T] = SimpleQueue()
    for scratch in scratches:
        free.put(scratch)

    def call(i: int) -> None:
        scratch = free.get()
        try:
            function(scratch, i)
        finally:
            free.put(scratch)

    with ThreadPoolExecutor(len(scratches), thread_name_prefix="sfm-tokenize") as pool:
        for _ in pool.map(call, range(n)):
            pass
