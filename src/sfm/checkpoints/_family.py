"""What sfm knows of a family of published checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from sfm._registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from sfm.checkpoints._pretrained import PretrainedCells

#: Families by name; another package adds one with an entry point.
FAMILIES = Registry(
    kind="checkpoint family",
    entries={
        "geneformer": "sfm.checkpoints.geneformer:GENEFORMER",
    },
    entry_point_group="sfm.checkpoints",
)


class ReadDirectory(Protocol):
    """Function that reads a directory in the layout of the family."""

    def __call__(
        self, directory: Path, *, name: str, revision: str | None, trust_pickle: bool, **options: Any
    ) -> PretrainedCells:
        """Return the model."""
        ...


@dataclass(frozen=True)
class Family:
    """A family of published checkpoints: how its directories are recognised and read."""

    name: str
    """Name in the registry."""
    title: str
    """What its authors call it."""
    recognise: Callable[[Path], bool]
    """Whether a directory is in the published layout, judged by its files' names and headers alone."""
    read: ReadDirectory
    """Reads such a directory."""
    patterns: tuple[str, ...]
    """Glob patterns of all files that are read, for downloads; nothing that can carry code."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of :func:`sfm.load` beyond those of all families, and what each is for."""
