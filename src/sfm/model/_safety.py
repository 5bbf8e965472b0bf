"""Saved models without pickles that could run code."""

from __future__ import annotations

import pickle
import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy._core import multiarray

if TYPE_CHECKING:
    from pathlib import Path

# What `save` of scvi-tools stores beside tensors and plain Python values; none of it can run code.
_HARMLESS = [
    bytes,
    multiarray._reconstruct,
    multiarray.scalar,
    np.ndarray,
    np.dtype,
    *(getattr(np.dtypes, name) for name in np.dtypes.__all__),
]


def refuse_unsafe_pickle(path: Path) -> None:
    """Raise if a saved model holds anything but tensors, arrays and plain values.

    scvi-tools opens `model.pt` with the full unpickler; reading it with the restricted one first shows whether that is
    safe.
    """
    try:
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pickle protocols, which the error below covers
            torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        msg = f"Did not find {str(path)!r}. Pass the directory that `save` wrote, and its prefix= if it had one."
        raise FileNotFoundError(msg) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = next((line for line in str(error).splitlines() if "global" in line), str(error).splitlines()[0])
        msg = (
            f"{str(path)!r} was not opened: it is damaged, or holds objects other than weights and settings, which "
            f"could run code ({reason}). Save the model again with its `save`."
        )
        raise ValueError(msg) from error
