"""Which files a run reads and writes, and what is refused before any work."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".h5ad", ".zarr")
PARTS = "part-*.safetensors"


@dataclass(frozen=True)
class FilePaths:
    """Input, output, and the folder of finished parts beside the output."""

    source: Path
    out: Path

    @property
    def parts(self) -> Path:
        """Folder of everything that is not finished."""
        return self.out.with_name(f"{self.out.name}.parts")

    def any_finished(self) -> bool:
        """Whether any part is finished."""
        return any(self.parts.glob(PARTS))


def choose_paths(path: str | Path, out: str | Path | None, *, copy_input: bool, ending: str = "embedded") -> FilePaths:
    """Return the paths of a run, or raise if they cannot be meant; nothing is written."""
    source = Path(path).expanduser()
    _refuse_other_suffix(source, "path")
    if not source.exists():
        msg = f"Did not find path={str(path)!r}. Pass a file of cells, .h5ad or .zarr."
        raise FileNotFoundError(msg)
    target = source.with_name(f"{source.stem}_{ending}{source.suffix}") if out is None else Path(out).expanduser()
    _refuse_other_suffix(target, "out")
    if copy_input and target.suffix != source.suffix:
        msg = (
            f"copy_input=True copies {str(path)!r} as it is, so out={str(out)!r} must end in {source.suffix!r} as well. "
            "Pass such a name, or copy_input=False."
        )
        raise ValueError(msg)
    paths = FilePaths(source, target)
    _refuse_overlap(paths)
    if not paths.out.parent.is_dir():
        msg = f"The folder of out={str(target)!r} does not exist. Make {str(target.parent)!r} first, or pass another out=."
        raise FileNotFoundError(msg)
    if not os.access(paths.out.parent, os.W_OK | os.X_OK):
        msg = f"Cannot write into {str(paths.out.parent)!r}. Pass out= with a name in a folder of your own."
        raise PermissionError(msg)
    return paths


def refuse_existing(paths: FilePaths, *, overwrite: bool) -> None:
    """Raise if there is something in place of the output that may not be replaced."""
    if not paths.out.exists():
        return
    if not overwrite:
        msg = f"out={str(paths.out)!r} exists already. Pass overwrite=True to replace it, or another out=."
        raise FileExistsError(msg)
    if paths.out.is_dir() and not _is_store(paths.out):
        msg = f"out={str(paths.out)!r} is a folder that holds other things than cells, and is not replaced. Pass another out=."
        raise FileExistsError(msg)


def _is_store(folder: Path) -> bool:
    """Whether a folder is a zarr store, or empty."""
    names = {path.name for path in folder.iterdir()}
    return folder.suffix == ".zarr" and (not names or not names.isdisjoint({"zarr.json", ".zgroup", ".zmetadata"}))


def _refuse_other_suffix(path: Path, name: str) -> None:
    if path.suffix not in SUFFIXES:
        msg = f"{name}={str(path)!r} ends in {path.suffix!r}. Cells are read from and written to .h5ad or .zarr."
        raise ValueError(msg)


def _refuse_overlap(paths: FilePaths) -> None:
    """Raise if the output is the input, or one lies within the other."""
    source, out = paths.source.resolve(), paths.out.resolve()  # either may be a link
    same = out == source or (out.exists() and out.samefile(source))
    if same or source in out.parents or out in source.parents:
        msg = (
            f"out={str(paths.out)!r} would write into the input {str(paths.source)!r}, which is never changed. "
            "Pass out= with another name; copy_input=True copies what the input holds."
        )
        raise ValueError(msg)
