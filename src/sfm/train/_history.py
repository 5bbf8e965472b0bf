"""The training history as plain values, which the restricted unpickler reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd


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
