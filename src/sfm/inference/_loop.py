"""The loop over minibatches of cells of similar length."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from tqdm.auto import tqdm

from sfm import _logging as logg
from sfm.data._loader import collate
from sfm.data._sampler import length_sorted_minibatches
from sfm.inference._precision import Precision, choose_device, choose_precision, inference_context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from sfm.tokenizers import TokenizedCells

BatchSize = int | Literal["auto"]

# Tokens per minibatch. Small on the CPU: its caches hold one long cell, and cells of equal length need no padding.
_MAX_TOKENS = {"cpu": 2048, "mps": 16_384, "cuda": 131_072}

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
) -> tuple[np.ndarray, ...]:
    """Compute matrices with one float32 row per cell, in the order of the cells.

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
    """
    chosen, in_precision = choose_device(device), choose_precision(precision)
    minibatches = length_sorted_minibatches(cells.lengths, **_minibatch_limits(batch_size, chosen))
    results: tuple[np.ndarray, ...] = ()
    progress = tqdm(total=len(cells), desc=doing, unit="cell", delay=_PROGRESS_DELAY, disable=not logg.show_progress())
    with progress, _in_eval_mode(model, chosen), inference_context(chosen, in_precision):
        for rows in minibatches:
            minibatch = {k: v.to(chosen) for k, v in collate(cells, rows, pad_id=pad_id).items()}
            computed = compute(minibatch)
            if not results:
                results = tuple(np.zeros((len(cells), *part.shape[1:]), dtype=np.float32) for part in computed)
            for result, part in zip(results, computed, strict=True):
                result[rows] = part.float().cpu().numpy()
            progress.update(len(rows))
    if not results:
        msg = f"There are no cells ({doing.lower()})."
        raise ValueError(msg)
    return results


def _minibatch_limits(batch_size: BatchSize, device: torch.device) -> dict[str, int]:
    if batch_size == "auto":
        return {"max_tokens": _MAX_TOKENS.get(device.type, 16_384)}
    if not isinstance(batch_size, int | np.integer) or isinstance(batch_size, bool) or batch_size < 1:
        msg = f"batch_size={batch_size!r} is neither 'auto' nor a positive number of cells."
        raise ValueError(msg)
    return {"max_cells": int(batch_size)}


@contextmanager
def _in_eval_mode(model: Any, device: torch.device) -> Iterator[None]:
    """Put a torch model on the device and in evaluation mode, and back afterwards."""
    if not isinstance(model, torch.nn.Module):
        yield
        return
    first = next(model.parameters(), None)
    before, training = (device if first is None else first.device), model.training
    model.to(device).eval()
    try:
        yield
    finally:
        model.to(before).train(training)
