"""How many cells are computed at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from sfm.data._sampler import length_sorted_minibatches

BatchSize = int | Literal["auto"]

# Tokens per minibatch. Small on the CPU: a cell of this length keeps a few cores busy, and alone it needs no padding.
_MAX_TOKENS = {"cpu": 1024, "mps": 16_384, "cuda": 131_072}
_MAX_TOKENS_PER_CORE = 256


@dataclass
class MinibatchLimits:
    """Most cells, or most tokens with padding, of a minibatch; they shrink where memory is short."""

    max_cells: int | None = None
    max_tokens: int | None = None
    in_order: bool = False

    @classmethod
    def of(cls, batch_size: BatchSize, device: torch.device) -> MinibatchLimits:
        """Read `batch_size`."""
        if batch_size == "auto":
            return cls(max_tokens=_tokens_that_pay(device))
        if not isinstance(batch_size, int | np.integer) or isinstance(batch_size, bool) or batch_size < 1:
            msg = f"batch_size={batch_size!r} is neither 'auto' nor a positive number of cells."
            raise ValueError(msg)
        return cls(max_cells=int(batch_size))

    @classmethod
    def for_model(cls, model: object, batch_size: BatchSize, device: torch.device) -> MinibatchLimits:
        """Read `batch_size`, unless the vectors of the model depend on which cells are run together."""
        together: int | None = getattr(model, "cells_together", None)
        if together is not None:
            return cls(max_cells=together or None, in_order=True)
        own: int | None = getattr(model, "minibatch_size", None)
        return cls.of(own if batch_size == "auto" and own is not None else batch_size, device)

    def split(self, lengths: np.ndarray) -> list[np.ndarray]:
        """Return rows per minibatch, longest first; or as they come."""
        if self.in_order:
            size = self.max_cells or max(lengths.size, 1)
            return [np.arange(start, min(start + size, lengths.size)) for start in range(0, lengths.size, size)]
        return length_sorted_minibatches(lengths, max_cells=self.max_cells, max_tokens=self.max_tokens)

    def __str__(self) -> str:
        return f"{self.max_tokens} tokens" if self.max_cells is None else f"{self.max_cells} cells"

    def halve(self, n_cells: int, longest: int) -> None:
        """Allow half of what did not fit."""
        if self.max_cells is None:
            self.max_tokens = n_cells // 2 * longest
        else:
            self.max_cells = n_cells // 2


def _tokens_that_pay(device: torch.device) -> int:
    most = _MAX_TOKENS.get(device.type, 16_384)
    return max(most, _MAX_TOKENS_PER_CORE * torch.get_num_threads()) if device.type == "cpu" else most
