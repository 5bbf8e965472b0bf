"""Changing a zarr store of either format in place."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def open_store(path: Path) -> Any:
    """Open a store for changes, past its summary of metadata, which would hide them."""
    import zarr

    options: dict[str, Any] = {} if zarr.__version__.startswith("2.") else {"use_consolidated": False}
    return zarr.open_group(str(path), mode="r+", **options)


def has_summary(path: Path) -> bool:
    """Whether a store has its metadata in one place as well."""
    if (path / ".zmetadata").exists():
        return True
    root = path / "zarr.json"
    return root.exists() and json.loads(root.read_text()).get("consolidated_metadata") is not None


def summarise(path: Path) -> None:
    """Bring the summary of the metadata up to date."""
    import zarr

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")  # it was there before
        zarr.consolidate_metadata(str(path))
