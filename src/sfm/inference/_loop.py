"""The loop over minibatches of cells of similar length."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from sfm import _logging as logg
from sfm.data._loader import collate
from sfm.inference._device import DeviceResults, to_device
from sfm.inference._memory import is_out_of_memory, release_memory, too_large
from sfm.inference._minibatches import BatchSize, MinibatchLimits
from sfm.inference._precision import Precision, choose_device, choose_precision
from sfm.inference._prepare import prepared

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor

    from sfm.tokenizers import TokenizedCells

# Seconds before a progress bar appears.
_PROGRESS_DELAY = 2.0


def run_tokens(
    model: Any,
    compute: Callable[[dict[str, Tensor]], tuple[Tensor, ...]],
    cells: TokenizedCells,
    *,
    pad_id: int | None,
    doing: str,
    batch_size: BatchSize = "auto",
    device: str | torch.device = "auto",
    precision: Precision = "auto",
    progress: tqdm[Any] | None = None,
    limits: MinibatchLimits | None = None,
) -> tuple[np.ndarray, ...]:
    """Compute matrices with one float32 row per cell, in the order of the cells.

    A minibatch that does not fit into memory is halved, and all that follow are as small.

    Parameters
    ----------
    model
        What is computed with; a torch module is moved to the device and put in evaluation mode meanwhile.
    compute
        Function of a minibatch that returns tensors of shape `(cells, ...)`.
    cells
        Tokenized cells.
    pad_id
        Token id of padding; `None` if any will do.
    doing
        Title of the progress bar.
    batch_size, device, precision
        As in :func:`sfm.tl.embed`.
    progress
        A progress bar over more than these cells, to be moved on instead of showing one.
    limits
        Sizes of minibatches instead of `batch_size`; carries what was learnt about memory from call to call.

    Raises
    ------
    MemoryError
        If a single cell does not fit.
    """
    if len(cells) == 0:
        msg = f"There are no cells ({doing.lower()})."
        raise ValueError(msg)
    chosen = choose_device(device)
    in_precision = choose_precision(precision, chosen)
    limits = MinibatchLimits.for_model(model, batch_size, chosen) if limits is None else limits
    with prepared(model, chosen, in_precision), cell_bar(progress, len(cells), doing) as bar:
        return _Loop(compute, cells, pad_id, chosen, limits).run(bar)


def cell_bar(progress: tqdm[Any] | None, n_cells: int, doing: str, **options: Any) -> Any:
    if progress is not None:
        return nullcontext(progress)
    return tqdm(
        total=n_cells, desc=doing, unit="cell", delay=_PROGRESS_DELAY, disable=not logg.show_progress(), **options
    )


class _Loop:
    """Minibatches of one call, split anew when memory turns out to be short."""

    def __init__(
        self,
        compute: Callable[[dict[str, Tensor]], tuple[Tensor, ...]],
        cells: TokenizedCells,
        pad_id: int | None,
        device: torch.device,
        limits: MinibatchLimits,
    ) -> None:
        self.compute = compute
        self.cells = cells
        self.pad_id = pad_id
        self.device = device
        self.limits = limits
        self.lengths = cells.lengths
        self.results = DeviceResults(len(cells), device)

    def run(self, bar: tqdm[Any]) -> tuple[np.ndarray, ...]:
        minibatches = self.limits.split(self.lengths)[::-1]
        while minibatches:
            rows = minibatches.pop()
            if self._fits(rows):
                bar.update(len(rows))
            else:
                minibatches = self._split_again([rows, *minibatches[::-1]])
        return self.results.arrays()

    def _fits(self, rows: np.ndarray) -> bool:
        """Compute a minibatch, and return whether there was memory for it."""
        try:
            minibatch = to_device(collate(self.cells, rows, pad_id=self.pad_id), self.device)
            self.results.add(rows, self.compute(minibatch))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(rows) == 1 or self.limits.in_order:
                raise too_large(self.lengths[rows], self.device) from error
            return False
        return True

    def _split_again(self, minibatches: list[np.ndarray]) -> list[np.ndarray]:
        """Split the cells that are left into minibatches half the size of the first of them; last one first."""
        release_memory(self.device)
        first = minibatches[0]
        self.limits.halve(len(first), int(self.lengths[first].max(initial=1)))
        logg.info(f"memory was too short for {len(first)} cells at a time; going on with at most {self.limits}")
        left = np.concatenate(minibatches)
        return [left[rows] for rows in self.limits.split(self.lengths[left])][::-1]
