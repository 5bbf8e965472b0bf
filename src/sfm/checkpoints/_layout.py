"""The files that published checkpoints consist of, and which of them a directory has."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class NeededFile:
    """A file that a checkpoint cannot do without."""

    names: tuple[str, ...]
    """Glob patterns of the names that it may have."""
    what: str
    """What is in it."""
    besides: str = ""
    """Glob pattern of files of such names that are something else."""
    decides: bool = False
    """Whether its content tells the family: a directory that has it and is not recognised is of another one."""

    def is_in(self, directory: Path) -> bool:
        """Whether a directory has the file."""
        found = (path for name in self.names for path in directory.glob(name))
        return any(path.is_file() and not fnmatch(path.name, self.besides) for path in found)

    def __str__(self) -> str:
        """Say its names and what it is."""
        other = f" other than {self.besides!r}" if self.besides else ""
        return f"{' or '.join(map(repr, self.names))}{other} ({self.what})"


@dataclass(frozen=True)
class Comparison:
    """The files of a layout that a directory has, and those it lacks."""

    found: tuple[NeededFile, ...]
    missing: tuple[NeededFile, ...]

    @property
    def likeness(self) -> int:
        """How many more files are there than are missing."""
        return len(self.found) - len(self.missing)

    @property
    def is_other(self) -> bool:
        """Whether a file is there that would have told the family."""
        return any(file.decides for file in self.found)


def compare(directory: Path, layout: tuple[NeededFile, ...]) -> Comparison:
    """Look for the files of a layout in a directory."""
    has = {file: file.is_in(directory) for file in layout}
    return Comparison(tuple(file for file in layout if has[file]), tuple(file for file in layout if not has[file]))
