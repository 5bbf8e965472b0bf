from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from torch import Tensor

    from sfm.data._sampler import BucketSampler
    from sfm.tokenizers import TokenizedCells


def collate(cells: TokenizedCells, rows: Sequence[int] | np.ndarray, *, pad_id: int | None) -> dict[str, Tensor]:
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
    chosen = cells[np.asarray(rows)]
    lengths = chosen.lengths
    shape = (len(chosen), max(int(lengths.max(initial=0)), 1))
    mask = np.arange(shape[1]) < lengths[:, None]
    input_ids = np.full(shape, pad_id or 0, dtype=np.int64)
    input_ids[mask] = chosen.input_ids
    minibatch = {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}
    if chosen.values is not None:
        values = np.zeros(shape, dtype=np.float32)
        values[mask] = chosen.values
        minibatch["values"] = torch.from_numpy(values)
    return minibatch


class TokenDataset(Dataset[dict[str, "Tensor"]]):
    """Tokenized cells, indexed by lists of rows; each item is a padded minibatch."""

    def __init__(self, cells: TokenizedCells, *, pad_id: int | None) -> None:
        self.cells = cells
        self.pad_id = pad_id

    def __len__(self) -> int:
        """Cells."""
        return len(self.cells)

    def __getitem__(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Minibatch of these rows."""
        return collate(self.cells, rows, pad_id=self.pad_id)


def token_loader(
    cells: TokenizedCells, *, pad_id: int | None, sampler: BucketSampler, **kwargs: Any
) -> DataLoader[dict[str, Tensor]]:
    """Make a loader of padded minibatches in the order of `sampler`."""
    return DataLoader(TokenDataset(cells, pad_id=pad_id), batch_size=None, sampler=sampler, **kwargs)
