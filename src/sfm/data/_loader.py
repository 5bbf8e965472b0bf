from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sfm.data._collate import pad

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from sfm.data._collate import Ragged
    from sfm.data._sampler import BucketSampler
    from sfm.tokenizers import TokenizedCells


def collate(cells: Ragged, rows: Sequence[int] | np.ndarray, *, pad_id: int | None) -> dict[str, Tensor]:
    """Pad some cells into a minibatch.

    Parameters
    ----------
    cells
        All cells.
    rows
        Which of them.
    pad_id
        Token id of padding; `None` if any will do.

    Returns
    -------
    `input_ids` and `attention_mask`, int64, and `values`, float32, where the cells have values; each of shape
    `(len(rows), longest of them)`, padded on the right.
    """
    padded = pad(cells, np.asarray(rows, dtype=np.int64), pad_id=pad_id or 0)
    return {name: torch.from_numpy(array) for name, array in padded.items()}


class TokenDataset(Dataset[dict[str, "Tensor"]]):
    """Tokenized cells, indexed by lists of rows; each item is a padded minibatch.

    Parameters
    ----------
    cells
        The cells.
    pad_id
        Token id of padding; `None` if any will do.
    columns
        What else each minibatch gets by name, one entry per cell.
    """

    def __init__(
        self, cells: TokenizedCells, *, pad_id: int | None, columns: dict[str, np.ndarray] | None = None
    ) -> None:
        self.cells = cells
        self.pad_id = pad_id
        self.columns = {name: torch.from_numpy(np.asarray(column)) for name, column in (columns or {}).items()}

    def __len__(self) -> int:
        """Cells."""
        return len(self.cells)

    def __getitem__(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Minibatch of these rows."""
        minibatch = collate(self.cells, rows, pad_id=self.pad_id)
        return minibatch | {name: column[rows] for name, column in self.columns.items()}


class TokenLoader(DataLoader[dict[str, "Tensor"]]):
    """Loader of padded minibatches that can go on in the middle of an epoch."""

    _yielded = _skip = 0

    def __iter__(self) -> Any:
        """Yield minibatches, after those that were seen before the state was saved."""
        self._yielded, self._skip = self._skip, 0
        sampler: Any = self.sampler
        sampler.skip = self._yielded
        for minibatch in self._minibatches():
            self._yielded += 1
            yield minibatch

    def _minibatches(self) -> Iterator[dict[str, Tensor]]:
        return super().__iter__()

    def state_dict(self) -> dict[str, int]:
        """Return how far the epoch is; Lightning stores it in its checkpoints."""
        return {"yielded": self._yielded % max(len(self), 1)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on from there in the next epoch that begins.

        Parameters
        ----------
        state_dict
            What `state_dict` returned.
        """
        self._skip = state_dict["yielded"]


def token_loader(
    cells: TokenizedCells,
    *,
    pad_id: int | None,
    sampler: BucketSampler,
    columns: dict[str, np.ndarray] | None = None,
    **kwargs: Any,
) -> TokenLoader:
    """Make a loader of padded minibatches in the order of `sampler`."""
    dataset = TokenDataset(cells, pad_id=pad_id, columns=columns)
    return TokenLoader(dataset, batch_size=None, sampler=sampler, **kwargs)
