"""Trading time for memory."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel


@contextmanager
def checkpointed_activations(network: PreTrainedModel, *, enabled: bool) -> Iterator[None]:
    """Let each layer be computed again in the backward pass, while training."""
    if not enabled:
        yield
        return
    # Newer versions of transformers have another name for it.
    prefix = "activation" if hasattr(network, "activation_checkpointing_enable") else "gradient"
    getattr(network, f"{prefix}_checkpointing_enable")()
    try:
        yield
    finally:
        getattr(network, f"{prefix}_checkpointing_disable")()
