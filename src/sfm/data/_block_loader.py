from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from sfm.data._collate import lengths_of
from sfm.data._loader import TokenLoader, collate
from sfm.data._stream import in_background

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from torch import Tensor

    from sfm.data._block_sampler import BlockSampler, Pool
    from sfm.data._collate import Ragged

    ReadPool = tuple[Pool, Ragged, np.ndarray]


class BlockSource(Protocol):
    """Cells that can be read some at a time: a token cache, or files that are tokenized."""

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """Numbers of each cell by name."""

    def __len__(self) -> int:
        """Cells."""

    def rows_of(self, rows: np.ndarray) -> tuple[Ragged, np.ndarray]:
        """Return cells among which are those of `rows`, and where these are among them."""


class _Pools(Dataset["ReadPool"]):
    """Reads pools, in a worker or in the process itself."""

    def __init__(self, source: BlockSource) -> None:
        self.source = source

    def __getitem__(self, pool: Pool) -> ReadPool:
        return pool, *self.source.rows_of(pool.rows)


class BlockLoader(TokenLoader):
    """Loader of padded minibatches of cells that are read by blocks.

    Pools are read by the workers, or ahead of their use by a thread where there are none. The order of the minibatches
    does not depend on that.

    Parameters
    ----------
    source
        Where the cells are.
    sampler
        Order of the cells.
    pad_id
        Token id of padding; `None` if any will do.
    num_workers
        Processes that read.
    pin_memory
        Put minibatches into memory that is faster to copy to a GPU.
    """

    def __init__(
        self,
        source: BlockSource,
        sampler: BlockSampler,
        *,
        pad_id: int | None,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        # A pool ahead in each worker: pools are large.
        ahead: dict[str, Any] = {"prefetch_factor": 1} if num_workers else {}
        pools: Any = _Pools(source)
        super().__init__(pools, batch_size=None, sampler=sampler, collate_fn=_as_is, num_workers=num_workers, **ahead)
        self.source = source
        self.pad_id = pad_id
        self.pins_memory = pin_memory

    def __len__(self) -> int:
        """Minibatches per epoch."""
        return self.sampler.n_minibatches  # type: ignore[attr-defined]

    def _minibatches(self) -> Iterator[dict[str, Tensor]]:
        pools: Any = DataLoader.__iter__(self)
        for pool, cells, places in pools if self.num_workers else in_background(pools):
            for positions in pool.minibatches(lengths_of(cells, places)):
                yield self._minibatch(cells, places[positions], pool.rows[positions])

    def _minibatch(self, cells: Ragged, places: np.ndarray, rows: np.ndarray) -> dict[str, Tensor]:
        minibatch = collate(cells, places, pad_id=self.pad_id)
        minibatch["cell_index"] = torch.from_numpy(rows)
        for name, column in self.source.columns.items():
            minibatch[name] = torch.from_numpy(column[rows].astype("int64"))
        return {name: tensor.pin_memory() for name, tensor in minibatch.items()} if self.pins_memory else minibatch


def _as_is(item: Any) -> Any:
    return item
