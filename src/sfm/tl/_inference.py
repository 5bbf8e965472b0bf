"""The loop that turns tokens into vectors, shared by `tl.embed` and the model classes."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from sfm import _logging as logg
from sfm.data._loader import collate
from sfm.data._sampler import length_sorted_minibatches
from sfm.tl._precision import choose_device, choose_precision, inference_context

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from sfm.protocols import ModelProtocol
    from sfm.tl._precision import Precision
    from sfm.tokenizers import TokenizedCells

# Tokens per minibatch. Small on the CPU: its caches hold one long cell, and cells of equal length need no padding.
_MAX_TOKENS = {"cpu": 2048, "mps": 16_384, "cuda": 131_072}

# Seconds before a progress bar appears.
_PROGRESS_DELAY = 2.0


def embed_tokens(
    model: ModelProtocol,
    cells: TokenizedCells,
    *,
    pad_id: int | None,
    pooling: str | None = None,
    batch_size: int | Literal["auto"] = "auto",
    device: str | torch.device = "auto",
    precision: Precision = "auto",
) -> np.ndarray:
    """Embed tokenized cells; one float32 row per cell, in order, zeros for cells without tokens."""
    chosen, in_precision = choose_device(device), choose_precision(precision)
    minibatches = length_sorted_minibatches(cells.lengths, **_minibatch_limits(batch_size, chosen))
    options = {} if pooling is None else {"pooling": pooling}
    result: np.ndarray | None = None
    progress = tqdm(
        total=len(cells), desc="Embedding", unit="cell", delay=_PROGRESS_DELAY, disable=not logg.show_progress()
    )
    with progress, _in_eval_mode(model, chosen), inference_context(chosen, in_precision):
        for rows in minibatches:
            minibatch = {k: v.to(chosen) for k, v in collate(cells, rows, pad_id=pad_id).items()}
            vectors = _encode(model, minibatch, options)
            if result is None:
                result = np.zeros((len(cells), vectors.shape[1]), dtype=np.float32)
            result[rows] = vectors.float().cpu().numpy()
            progress.update(len(rows))
    if result is None:
        msg = "There are no cells to embed."
        raise ValueError(msg)
    result[cells.lengths == 0] = 0
    return result


def _encode(model: ModelProtocol, minibatch: dict[str, torch.Tensor], options: dict[str, Any]) -> torch.Tensor:
    vectors = model.encode(**minibatch, **options)
    n_cells = minibatch["input_ids"].shape[0]
    if vectors.ndim != 2 or vectors.shape[0] != n_cells:
        msg = (
            f"{type(model).__name__}.encode returned shape {tuple(vectors.shape)} for {n_cells} cells; "
            "sfm.ModelProtocol asks for (cells, dims)."
        )
        raise ValueError(msg)
    return vectors


def _minibatch_limits(batch_size: int | Literal["auto"], device: torch.device) -> dict[str, int]:
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
