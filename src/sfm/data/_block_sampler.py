from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sfm.data._replicas import ReplicaSampler
from sfm.data._sampler import length_sorted_minibatches, shuffled_minibatches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sfm.data._block_split import BlockSplit, Part


@dataclass(frozen=True, eq=False)
class Pool:
    """Cells that are read together and mixed.

    Parameters
    ----------
    rows
        Numbers of the cells, block after block.
    batch_size
        Cells in a minibatch.
    n_minibatches
        How many minibatches to make of them.
    skip
        How many of these to leave out, because they were seen before the epoch was interrupted.
    seed
        Seed of the order; `None` to sort the cells by length.
    """

    rows: np.ndarray
    batch_size: int
    n_minibatches: int
    skip: int = 0
    seed: tuple[int, ...] | None = None

    def minibatches(self, lengths: np.ndarray) -> list[np.ndarray]:
        """Return positions in the pool per minibatch.

        Parameters
        ----------
        lengths
            Tokens of each cell of the pool.
        """
        if self.seed is None:
            minibatches = length_sorted_minibatches(lengths, max_cells=self.batch_size)
        else:
            rng = np.random.default_rng(self.seed)
            minibatches = shuffled_minibatches(lengths, rng.permutation(len(lengths)), self.batch_size, rng)
        while len(minibatches) < self.n_minibatches:
            minibatches = _one_more(minibatches)
        return minibatches[self.skip :]


def _one_more(minibatches: list[np.ndarray]) -> list[np.ndarray]:
    """Halve the largest minibatch, or repeat one if all have a single cell."""
    i = max(range(len(minibatches)), key=lambda k: len(minibatches[k]))
    middle = len(minibatches[i]) // 2
    parts = [minibatches[i][:middle], minibatches[i][middle:]] if middle else [minibatches[i]] * 2
    return [*minibatches[:i], *parts, *minibatches[i + 1 :]]


class BlockSampler(ReplicaSampler[Pool]):
    """Yield pools of cells from a few blocks each, in a new random order of blocks each epoch.

    The blocks are put in random order, and their cells are dealt out to the replicas in equal runs; each replica cuts
    its run into pools. Every replica makes the same number of minibatches, without leaving out a cell: where one would
    have one fewer, it halves a minibatch. A cell is repeated only where a replica has fewer cells than minibatches,
    that is with `batch_size=1`, or with fewer cells than replicas.

    Parameters
    ----------
    split
        Cells to train on and to hold out.
    part
        Which of them.
    batch_size
        Cells in a minibatch.
    pool_size
        Cells that are mixed; rounded down to whole minibatches.
    shuffle
        Draw a new order each epoch; otherwise blocks come in order, and the cells of a pool sorted by length.
    seed
        Seed of the order, together with the epoch.
    distributed
        Split the cells over the processes of the default group.
    """

    def __init__(
        self,
        split: BlockSplit,
        part: Part,
        *,
        batch_size: int,
        pool_size: int,
        shuffle: bool = True,
        seed: int = 0,
        distributed: bool = False,
    ) -> None:
        super().__init__(len(split), shuffle=shuffle, seed=seed, distributed=distributed)
        self.split = split
        self.part = part
        self.batch_size = batch_size
        self.pool_size = max(pool_size // batch_size, 1) * batch_size
        self.n_cells = int(split.sizes(part).sum())

    @property
    def n_minibatches(self) -> int:
        """Minibatches of each replica per epoch."""
        largest_share = -(-self.n_cells // self.num_replicas)
        return -(-largest_share // self.batch_size)

    def __len__(self) -> int:
        """Pools of this replica per epoch."""
        first, last = self._run()
        return -(-(last - first) // self.pool_size)

    def __iter__(self) -> Iterator[Pool]:
        """Yield pools, from the first that has minibatches which have not been seen."""
        order = np.flatnonzero(self.split.sizes(self.part))
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        ends = np.cumsum(self.split.sizes(self.part)[order])
        per_pool = self.pool_size // self.batch_size
        skipped, skip = divmod(self.skip, per_pool)
        skipped = min(skipped, len(self) - 1)
        skip, self.skip = self.skip - skipped * per_pool, 0
        first, last = self._run()
        for i in range(skipped, len(self)):
            start = first + i * self.pool_size
            stop = min(start + self.pool_size, last)
            n = self.n_minibatches - i * per_pool if stop == last else per_pool
            seed = (self.seed, self.epoch, 1 + start) if self.shuffle else None
            yield Pool(self._rows(order, ends, start, stop), self.batch_size, n, skip=skip, seed=seed)
            skip = 0

    def _run(self) -> tuple[int, int]:
        """Places of the first and behind the last cell of this replica in the order of an epoch."""
        cut = [rank * self.n_cells // self.num_replicas for rank in (self.rank, self.rank + 1)]
        return (cut[0], cut[1]) if cut[0] < cut[1] else (0, min(1, self.n_cells))

    def _rows(self, order: np.ndarray, ends: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Rows at these places in the order of an epoch."""
        first, last = np.searchsorted(ends, [start, stop - 1], side="right")
        rows = np.concatenate([self.split.rows(int(block), self.part) for block in order[first : last + 1]])
        begin = start - (int(ends[first - 1]) if first else 0)
        return rows[begin : begin + stop - start]
