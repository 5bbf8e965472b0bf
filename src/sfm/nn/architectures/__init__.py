"""Networks of published models, as far as transformers lacks them: embedders, backbones, readouts, heads.

A :class:`CellConfig` names one in `architecture`. Each is one file, and one line in `ARCHITECTURES`.
"""

from __future__ import annotations

from sfm._registry import Registry
from sfm.nn.architectures._architecture import Architecture

__all__ = ["ARCHITECTURES", "Architecture", "get_architecture"]

ARCHITECTURES = Registry(
    kind="architecture",
    entries={
        "geneformer": "sfm.nn.architectures._geneformer:GENEFORMER",
    },
)


def get_architecture(name: str | None) -> Architecture:
    """Return an architecture by name; `None` is sfm's own, whose parts are all defaults.

    Raises
    ------
    ValueError
        If the name is not known.
    """
    if name is None:
        return Architecture()
    architecture: Architecture = ARCHITECTURES.load(name)
    return architecture
