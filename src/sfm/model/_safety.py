"""Saved models without pickles that could run code."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
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


def plain_values(value: Any) -> Any:
    """Turn mappings of any kind into dictionaries, and data frames (of the history) into dictionaries of lists."""
    if isinstance(value, pd.DataFrame):
        return {"index": value.index.tolist(), "index_name": value.index.name, "values": value.iloc[:, 0].tolist()}
    if isinstance(value, Mapping):
        return {key: plain_values(item) for key, item in value.items()}
    return value


def frames_from_history(history: dict[str, dict[str, Any]] | None) -> dict[str, pd.DataFrame] | None:
    """Undo :func:`plain_values` for the training history."""
    if history is None:
        return None
    return {
        name: pd.DataFrame({name: part["values"]}, index=pd.Index(part["index"], name=part["index_name"]))
        for name, part in history.items()
    }
