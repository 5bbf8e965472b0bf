"""Everything that must stand before minibatches are computed, and be as it was afterwards."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch

from sfm.inference._precision import inference_context
from sfm.nn.architectures._proteins import shared_gene_vectors

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def prepared(model: Any, device: torch.device, precision: Literal["fp32", "bf16"]) -> Iterator[None]:
    """Put a model on the device and in evaluation mode, without gradients and in a precision, and all back afterwards.

    May be nested: a second use inside the first has nothing left to do.
    """
    with in_eval_mode(model, device), shared_gene_vectors(), inference_context(device, precision):
        yield


@contextmanager
def in_eval_mode(model: Any, device: torch.device) -> Iterator[None]:
    """Put a torch model on the device and in evaluation mode, and back afterwards, each of its modules as it was."""
    if not isinstance(model, torch.nn.Module):
        yield
        return
    first = next(model.parameters(), None)
    before = device if first is None else first.device
    training = [module for module in model.modules() if module.training]
    model.to(device).eval()
    try:
        yield
    finally:
        model.to(before)
        for module in training:
            module.training = True
