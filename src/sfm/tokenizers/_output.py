from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


class TokenOutput:
    """Tokens and values of all cells, filled run by run."""

    def __init__(self, n_rows: int, bound: int, *, has_values: bool) -> None:
        # Pages that are never written take no memory, so the bound may be generous.
        self.tokens = np.empty(bound, dtype=np.int32)
        self.values = np.empty(bound, dtype=np.float32) if has_values else None
        self.lengths = np.zeros(n_rows, dtype=np.int64)

    @property
    def indptr(self) -> np.ndarray:
        """Where each cell begins, and the last one ends."""
        return np.concatenate(([0], np.cumsum(self.lengths)))

    def close_gaps(self, runs: Sequence[slice], starts: Sequence[int]) -> None:
        """Move the runs, written from `starts` on, next to each other."""
        end = 0
        for run, start in zip(runs, starts, strict=False):
            size = int(self.lengths[run].sum())
            if start != end:
                for part in (self.tokens, self.values):
                    if part is not None:
                        part[end : end + size] = part[start : start + size]
            end += size

    def trim(self) -> None:
        """Give back what was not needed."""
        n_tokens = int(self.lengths.sum())
        self.tokens.resize(n_tokens, refcheck=False)
        if self.values is not None:
            self.values.resize(n_tokens, refcheck=False)
