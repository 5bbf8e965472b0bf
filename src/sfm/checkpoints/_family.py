"""What sfm knows of a family of published checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sfm._registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from sfm.checkpoints._layout import NeededFile
    from sfm.checkpoints._pretrained import PretrainedCells

#: Families by name; another package adds one with an entry point.
FAMILIES = Registry(
    kind="checkpoint family",
    entries={
        "geneformer": "sfm.checkpoints.geneformer:GENEFORMER",
        "nicheformer": "sfm.checkpoints.nicheformer:NICHEFORMER",
        "uce": "sfm.checkpoints.uce:UCE",
        "state_se": "sfm.checkpoints.state_se:STATE_SE",
        "scgpt": "sfm.checkpoints.scgpt:SCGPT",
        "tahoe_x1": "sfm.checkpoints.tahoe_x1:TAHOE_X1",
        "transcriptformer": "sfm.checkpoints.transcriptformer:TRANSCRIPTFORMER",
        "scfoundation": "sfm.checkpoints.scfoundation:SCFOUNDATION",
        "cellplm": "sfm.checkpoints.cellplm:CELLPLM",
        "cell_sentences": "sfm.checkpoints.cell_sentences:CELL_SENTENCES",
        "scmodelforge": "sfm.checkpoints.scmodelforge:SCMODELFORGE",
    },
    entry_point_group="sfm.checkpoints",
)


@dataclass(frozen=True)
class Family:
    """A family of published checkpoints: how its directories are recognised and read."""

    name: str
    """Name in the registry."""
    title: str
    """What its authors call it."""
    recognise: Callable[[Path], bool]
    """Whether a directory is in the published layout, judged by its files' names and headers alone."""
    read: Callable[..., PretrainedCells]
    """Reads such a directory: `read(directory, *, name, revision, trust_pickle, **options)`."""
    patterns: tuple[str, ...]
    """Glob patterns of all files that are read, for downloads; nothing that can carry code."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of :func:`sfm.load` beyond those of all families, and what each is for."""
    layouts: tuple[tuple[NeededFile, ...], ...] = ()
    """Files that a directory needs, in each layout of the family; they name what is missing where none is recognised."""


def families() -> list[Family]:
    """Return all known families."""
    return [FAMILIES.load(name) for name in FAMILIES.names()]


def recognised(directory: Path) -> Family | None:
    """Return the family of a directory, `None` if it is in no published layout."""
    return next((family for family in families() if family.recognise(directory)), None)
