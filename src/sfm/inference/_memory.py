"""What happens where a minibatch does not fit into memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import numpy as np

# The CPU's allocator and Apple's raise plain RuntimeErrors that say so in words.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of numpy or torch, on any device, says that there was too little memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def release_memory(device: torch.device) -> None:
    """Give back what torch keeps for later, so that a smaller minibatch finds it in one piece."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def too_large(lengths: np.ndarray, device: torch.device) -> MemoryError:
    """Return the error for a single cell that does not fit."""
    msg = (
        f"A cell of {int(lengths[0])} tokens does not fit into the memory of device {str(device)!r}, not even alone. "
        "Tokenize with a smaller max_length (`sfm.pp.tokenize(adata, max_length=...)`, then `tokens_key='tokens'`), "
        "take a smaller model, or another device (`device='cpu'`)."
    )
    return MemoryError(msg)
