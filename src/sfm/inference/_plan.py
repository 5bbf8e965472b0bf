"""What embedding would cost, from a short probe."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sfm import _logging as logg
from sfm.inference._minibatches import MinibatchLimits
from sfm.inference._plan_memory import resident
from sfm.inference._plan_probe import probe_forward, probe_tokens
from sfm.inference._plan_text import as_bytes, as_duration
from sfm.inference._precision import choose_device, choose_precision

if TYPE_CHECKING:
    from sfm.checkpoints import PretrainedCells
    from sfm.data._stream import CellStream
    from sfm.inference._minibatches import BatchSize
    from sfm.inference._precision import Precision
    from sfm.tokenizers import TokenizedCells


@dataclass(frozen=True)
class EmbeddingPlan:
    """What embedding would cost here: a probe of a few seconds, drawn out to all cells.

    What :func:`sfm.tl.embed` and :func:`sfm.embed_file` return with `dry_run=True`; `str` makes a table of it.
    """

    model: str
    """Name of the model."""
    device: str
    """Torch device."""
    precision: str
    """Precision that would run, `"fp32"` or `"bf16"`."""
    n_cells: int
    """Cells."""
    n_tokens: int
    """Tokens of all cells, special tokens included."""
    is_exact: bool
    """Whether the tokens were counted, and not drawn out from some of the cells."""
    n_dims: int
    """Dimensions of a vector."""
    seconds_tokenizing: float
    """Seconds of reading and tokenizing."""
    seconds_forward: float
    """Seconds in the model."""
    seconds: float
    """Seconds of the run, once imports are done and the model is loaded."""
    peak_memory: int
    """Most main memory of this process during the run, what it holds already included, in bytes."""
    device_memory: int | None
    """Most memory of a CUDA device, in bytes; `None` on others."""
    n_minibatches: int
    """Minibatches."""
    tokens_per_minibatch: int
    """Most tokens in a minibatch, padding included."""
    output_bytes: int
    """Size of the vectors in bytes."""

    def __str__(self) -> str:
        """Table of one line per cost."""
        about = "" if self.is_exact else "about "
        rows = {
            "cells": f"{self.n_cells:,}",
            "tokens": f"{about}{self.n_tokens:,} ({self.n_tokens / self.n_cells:,.0f} per cell)",
            "time": f"about {as_duration(self.seconds)} ({as_duration(self.seconds_tokenizing)} reading and tokenizing, "
            f"{as_duration(self.seconds_forward)} in the model)",
            "peak memory": f"about {as_bytes(self.peak_memory)}",
            "minibatches": f"{about}{self.n_minibatches:,} of up to {self.tokens_per_minibatch:,} tokens",
            "vectors": f"{self.n_cells:,} x {self.n_dims:,} float32, {as_bytes(self.output_bytes)}",
        }
        if self.device_memory is not None:
            rows["device memory"] = f"about {as_bytes(self.device_memory)}"
        title = f"{self.model} on {self.device} ({self.precision})"
        return "\n".join([title, *(f"  {name:<13}  {value}" for name, value in rows.items())])


def plan_embedding(
    pretrained: PretrainedCells,
    cells: CellStream | TokenizedCells,
    *,
    pooling: str | None = None,
    batch_size: BatchSize = "auto",
    device: str | torch.device = "auto",
    precision: Precision = "auto",
    in_memory: bool = True,
) -> EmbeddingPlan:
    """Tokenize up to three windows of cells, run some of their minibatches, and draw both out to all cells.

    Parameters
    ----------
    pretrained
        The model.
    cells
        All cells.
    pooling, batch_size, device, precision
        As in :func:`sfm.tl.embed`.
    in_memory
        Whether the vectors of all cells will be held in memory.

    Raises
    ------
    ValueError
        As :func:`sfm.tl.embed`.
    """
    chosen = choose_device(device)
    in_precision = choose_precision(precision, chosen)
    limits = MinibatchLimits.of(batch_size, chosen)
    before = resident()
    tokens = probe_tokens(cells)
    forward = probe_forward(pretrained, tokens.windows, limits, pooling=pooling, device=chosen, precision=in_precision)
    scale = tokens.n_obs / tokens.n_cells
    output_bytes = 4 * tokens.n_obs * forward.n_dims
    tokenizing, computing = tokens.seconds_per_cell * tokens.n_obs, forward.seconds * scale
    plan = EmbeddingPlan(
        model=pretrained.name,
        device=str(chosen),
        precision=in_precision,
        n_cells=tokens.n_obs,
        n_tokens=round(tokens.n_tokens * scale),
        is_exact=tokens.n_cells == tokens.n_obs,
        n_dims=forward.n_dims,
        seconds_tokenizing=tokenizing,
        seconds_forward=computing,
        seconds=max(tokenizing, computing) if _overlaps(chosen) else tokenizing + computing,
        peak_memory=before + tokens.extra_memory + forward.extra_memory + in_memory * output_bytes,
        device_memory=torch.cuda.max_memory_reserved(chosen) if chosen.type == "cuda" else None,
        n_minibatches=round(forward.n_minibatches * scale),
        tokens_per_minibatch=forward.tokens_per_minibatch,
        output_bytes=output_bytes,
    )
    logg.info(str(plan))
    return plan


def _overlaps(device: torch.device) -> bool:
    """Whether cells are tokenized on other processors than the model runs on."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return device.type != "cpu" or usable > torch.get_num_threads()
