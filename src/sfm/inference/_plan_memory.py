"""The most memory that a process held for a while."""

from __future__ import annotations

from threading import Event, Thread

import psutil  # type: ignore[import-untyped]

_INTERVAL = 0.005


def resident() -> int:
    """Bytes that this process holds in main memory."""
    return int(psutil.Process().memory_info().rss)


class MemoryPeak:
    """Context in which the memory of this process is looked at again and again."""

    def __init__(self) -> None:
        self.before = self.peak = resident()
        self._done = Event()
        self._thread = Thread(target=self._watch, daemon=True)

    @property
    def extra(self) -> int:
        """Bytes beyond what was held at the beginning."""
        return self.peak - self.before

    def _watch(self) -> None:
        while not self._done.wait(_INTERVAL):
            self.peak = max(self.peak, resident())

    def __enter__(self) -> MemoryPeak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.peak = max(self.peak, resident())
