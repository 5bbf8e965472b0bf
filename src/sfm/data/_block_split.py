"""Dividing cells into blocks, and blocks into cells that are trained on and cells that are held out."""

from __future__ import annotations

from typing import Literal

import numpy as np

Part = Literal["train", "validation"]
SplitBy = Literal["cells", "blocks"]


def block_bounds(sizes: list[int], block_size: int) -> np.ndarray:
    """Divide files of these many cells into blocks of at most `block_size` cells, none of which spans two files.

    Returns
    -------
    Block `i` has the cells `bounds[i]` to `bounds[i + 1]`; int64, one longer than the number of blocks.
    """
    ends = np.cumsum([0, *sizes])
    starts = [np.arange(first, last, block_size) for first, last in zip(ends[:-1], ends[1:], strict=True)]
    return np.concatenate([*starts, ends[-1:]]).astype(np.int64)


class BlockSplit:
    """Which cells of each block are trained on, and which are held out for validation.

    Nothing is stored per cell: the rows of a block are drawn again, and come out the same, when they are needed.

    Parameters
    ----------
    bounds
        What :func:`block_bounds` returned.
    validation_size
        Share of the cells to hold out.
    by
        Hold out `"cells"` of every block, or whole `"blocks"`.
    seed
        Seed of the draw.
    usable
        Which cells to use at all, booleans of shape `(n_cells,)`; `None` for all.
    """

    def __init__(
        self,
        bounds: np.ndarray,
        *,
        validation_size: float,
        by: SplitBy,
        seed: int,
        usable: np.ndarray | None = None,
    ) -> None:
        self.bounds = bounds
        self.by = by
        self.seed = seed
        self.usable = usable
        if usable is None:
            self._sizes = np.diff(bounds)
        else:
            self._sizes = np.add.reduceat(usable.astype(np.int64), bounds[:-1])
        self._n_held_out = self._held_out_per_block(validation_size)

    def __len__(self) -> int:
        """Blocks."""
        return len(self.bounds) - 1

    def sizes(self, part: Part) -> np.ndarray:
        """Return the cells of this part in each block; int64."""
        return self._n_held_out if part == "validation" else self._sizes - self._n_held_out

    def rows(self, block: int, part: Part) -> np.ndarray:
        """Return the cells of this part in a block, ascending."""
        rows = np.arange(self.bounds[block], self.bounds[block + 1])
        if self.usable is not None:
            rows = rows[self.usable[rows]]
        n_held_out = int(self._n_held_out[block])
        if n_held_out in (0, len(rows)):
            return rows if (n_held_out == 0) == (part == "train") else rows[:0]
        is_held_out = np.zeros(len(rows), dtype=bool)
        is_held_out[np.random.default_rng([self.seed, 1, block]).permutation(len(rows))[:n_held_out]] = True
        return rows[is_held_out if part == "validation" else ~is_held_out]

    def _held_out_per_block(self, share: float) -> np.ndarray:
        if self.by == "cells":
            # Rounded cumulatively, so that blocks of whatever size make up the share of the whole.
            return np.diff(np.rint(np.cumsum([0, *self._sizes]) * share)).astype(np.int64)
        order = np.random.default_rng([self.seed, 2]).permutation(len(self))
        before = np.cumsum(self._sizes[order]) - self._sizes[order]
        n = round(int(self._sizes.sum()) * share)
        chosen = order[before < n][: len(self) - 1]  # one block at least is trained on
        held_out = np.zeros_like(self._sizes)
        held_out[chosen] = self._sizes[chosen]
        return held_out
