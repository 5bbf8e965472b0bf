from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sfm.data._replicas import ReplicaSampler

if TYPE_CHECKING:
    from collections.abc import Iterator

# Cells are sorted by length within pools of this many minibatches, so that an epoch stays close to a full shuffle.
_POOL = 32


def length_sorted_minibatches(
    lengths: np.ndarray, *, max_cells: int | None = None, max_tokens: int | None = None
) -> list[np.ndarray]:
    """Split cells into minibatches of similar length, longest first.

    Parameters
    ----------
    lengths
        Tokens per cell.
    max_cells
        Most cells in a minibatch.
    max_tokens
        Most tokens in a minibatch, padding included; a longer cell stands alone.

    Returns
    -------
    Row indices per minibatch; every row occurs once.
    """
    order = np.argsort(-lengths, kind="stable")
    minibatches, start = [], 0
    while start < len(order):
        longest = max(int(lengths[order[start]]), 1)
        fit = len(order) if max_tokens is None else max(max_tokens // longest, 1)
        stop = start + min(fit, max_cells or fit)
        minibatches.append(order[start:stop])
        start = stop
    return minibatches


def shuffled_minibatches(lengths: np.ndarray, order: np.ndarray, size: int, rng: np.random.Generator) -> list[Any]:
    """Split cells into minibatches of similar length, in random order.

    Parameters
    ----------
    lengths
        Tokens per cell.
    order
        Row indices in random order.
    size
        Cells in a minibatch.
    rng
        Source of the order of minibatches.

    Returns
    -------
    Row indices per minibatch; every index in `order` occurs once.
    """
    pool = _POOL * size
    minibatches = []
    for start in range(0, len(order), pool):
        rows = order[start : start + pool]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        minibatches += [rows[i : i + size] for i in range(0, len(rows), size)]
    return [minibatches[i] for i in rng.permutation(len(minibatches))]


class BucketSampler(ReplicaSampler[list[int]]):
    """Yield lists of cells of similar length, in a new random order each epoch.

    With several replicas each one gets its share of every epoch, and the first minibatches are repeated to even out.

    Parameters
    ----------
    lengths
        Tokens per cell.
    batch_size
        Cells in a minibatch.
    shuffle
        Draw a new order each epoch; otherwise the cells come sorted by length.
    drop_last
        Leave out minibatches that are not full.
    seed
        Seed of the order, together with the epoch.
    distributed
        Split the cells over the processes of the default group.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        *,
        shuffle: bool = True,
        drop_last: bool = False,
        seed: int = 0,
        distributed: bool = False,
    ) -> None:
        super().__init__(len(lengths), shuffle=shuffle, seed=seed, distributed=distributed)
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.drop_incomplete = drop_last

    def __len__(self) -> int:
        """Minibatches of this replica per epoch."""
        return -(-self._n_minibatches() // self.num_replicas)

    def __iter__(self) -> Iterator[list[int]]:  # type: ignore[override]
        """Yield row indices per minibatch."""
        minibatches = self._minibatches()
        first, self.skip = self.skip * self.num_replicas + self.rank, 0
        for i in range(first, len(self) * self.num_replicas, self.num_replicas):
            yield minibatches[i % len(minibatches)].tolist()

    def _n_minibatches(self) -> int:
        n_cells = len(self.lengths)
        return n_cells // self.batch_size if self.drop_incomplete else -(-n_cells // self.batch_size)

    def _minibatches(self) -> list[np.ndarray]:
        if not self.shuffle:
            minibatches = length_sorted_minibatches(self.lengths, max_cells=self.batch_size)
            return minibatches[: self._n_minibatches()]
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.lengths))[: self._n_minibatches() * self.batch_size]
        return shuffled_minibatches(self.lengths, order, self.batch_size, rng)
