"""Files that cells are from, as a token cache remembers them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def describe_file(path: Path, n_obs: int) -> dict[str, Any]:
    """Describe a file so that it is known again, and known to be another once it is written anew."""
    return {"path": str(path.resolve()), "n_obs": n_obs, **_fingerprint(path)}


def place_of(row: int, sources: Sequence[Mapping[str, Any]]) -> str:
    """Describe a cell by its number in the file that it is from."""
    for source in sources:
        if row < source["n_obs"]:
            return f"row {row} of {Path(source['path']).name}"
        row -= source["n_obs"]
    return f"row {row}"


def _fingerprint(path: Path) -> dict[str, int]:
    """What changes when a file is written anew; for a directory, that of its matrices."""
    stats = [path.stat(), *(part.stat() for part in (path / "X", path / "layers") if path.is_dir() and part.exists())]
    return {"size": 0 if path.is_dir() else stats[0].st_size, "mtime_ns": max(stat.st_mtime_ns for stat in stats)}
