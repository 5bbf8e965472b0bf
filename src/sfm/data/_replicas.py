from __future__ import annotations

from typing import Any, TypeVar

from torch.utils.data import DistributedSampler

Element_co = TypeVar("Element_co", covariant=True)


class ReplicaSampler(DistributedSampler[Element_co]):
    """An order of the cells that is drawn anew each epoch, of which each process has its share.

    A `DistributedSampler`, so that Lightning leaves it in place and calls `set_epoch`.

    Parameters
    ----------
    n
        Cells, or blocks, to put in order.
    shuffle
        Draw a new order each epoch.
    seed
        Seed of the order, together with the epoch.
    distributed
        Split the cells over the processes of the default group; otherwise this process has all.
    """

    def __init__(self, n: int, *, shuffle: bool, seed: int, distributed: bool) -> None:
        n_replicas, rank = (None, None) if distributed else (1, 0)
        counted: Any = range(n)  # only its length is read
        super().__init__(counted, n_replicas, rank, shuffle=shuffle, seed=seed)
        #: Minibatches to leave out of the next epoch, because they were seen before it was interrupted.
        self.skip = 0
