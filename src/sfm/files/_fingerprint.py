"""What the vectors of a file depend on, so that no run goes on with parts of another."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from sfm.tokenizers import TokenizedCells

Fingerprint = dict[str, dict[str, Any]]


def describe_input(source: Path, shape: tuple[int, int]) -> dict[str, Any]:
    """Return path, size and last change of a file, or of all files of a store, and the shape of the cells."""
    files = [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]
    about = [os.stat(path) for path in files]
    return {
        "path": str(source.resolve()),
        "n_files": len(files),
        "size": sum(stat.st_size for stat in about),
        "changed": max((stat.st_mtime_ns for stat in about), default=0),
        "n_obs": shape[0],
        "n_vars": shape[1],
    }


def hash_tokens(cells: TokenizedCells) -> str:
    """Return a hash of all that a model is shown of cells."""
    digest = hashlib.sha256(cells.indptr.tobytes())
    for array in (cells.input_ids, cells.values):
        digest.update(b"" if array is None else array.tobytes())
    return digest.hexdigest()


def without_content(run: Fingerprint) -> Fingerprint:
    """Return a fingerprint that says of the input where it is, and not what it holds."""
    return {**run, "input": {"path": run.get("input", {}).get("path")}}


def differences(now: Fingerprint, before: Fingerprint) -> list[str]:
    """Say in words where two fingerprints differ."""
    found = []
    for part in sorted(now.keys() | before.keys()):
        new, old = now.get(part, {}), before.get(part, {})
        found += [
            f"{part} {name} is {_short(new.get(name))}, was {_short(old.get(name))}"
            for name in sorted(new.keys() | old.keys())
            if new.get(name) != old.get(name)
        ]
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return f"{text[:13]}...'" if len(text) > 60 and isinstance(value, str) and value.isalnum() else text
