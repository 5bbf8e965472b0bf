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
        "nicheformer": "sfm.nn.architectures._nicheformer:NICHEFORMER",
        "uce": "sfm.nn.architectures._uce:UCE",
        "state_se": "sfm.nn.architectures._state_se:STATE_SE",
        "scgpt": "sfm.nn.architectures._gene_and_value:GENE_AND_VALUE",
        "tahoe_x1": "sfm.nn.architectures._gene_and_value:GENE_AND_VALUE",
        "transcriptformer": "sfm.nn.architectures._transcriptformer:TRANSCRIPTFORMER",
        "scfoundation": "sfm.nn.architectures._scfoundation:SCFOUNDATION",
        "cellplm": "sfm.nn.architectures._cellplm:CELLPLM",
        "cell_sentences": "sfm.nn.architectures._cell_sentences:CELL_SENTENCES",
        "scmodelforge": "sfm.nn.architectures._scmodelforge:SCMODELFORGE",
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
