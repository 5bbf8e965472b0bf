"""Single-cell foundation models for scanpy users."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfm import (
        annotation,
        data,
        datasets,
        genes,
        get,
        metrics,
        model,
        nn,
        pl,
        pp,
        sentences,
        tl,
        tokenizers,
        train,
    )
    from sfm._settings import settings
    from sfm.checkpoints import NonCommercialWarning, PretrainedCells, list_models, load
    from sfm.files import embed_file
    from sfm.genes import GeneVocabulary
    from sfm.inference import EmbeddingPlan
    from sfm.protocols import ModelProtocol, TokenizedCellProtocol
    from sfm.tokenizers import TokenizedCells

__version__ = version("sfm-tools")

__all__ = [
    "EmbeddingPlan",
    "GeneVocabulary",
    "ModelProtocol",
    "NonCommercialWarning",
    "PretrainedCells",
    "TokenizedCellProtocol",
    "TokenizedCells",
    "annotation",
    "data",
    "datasets",
    "embed_file",
    "genes",
    "get",
    "list_models",
    "load",
    "metrics",
    "model",
    "nn",
    "pl",
    "pp",
    "sentences",
    "settings",
    "tl",
    "tokenizers",
    "train",
]

_MODULES = {
    "annotation",
    "data",
    "datasets",
    "genes",
    "get",
    "metrics",
    "model",
    "nn",
    "pl",
    "pp",
    "sentences",
    "tl",
    "tokenizers",
    "train",
}
_OBJECTS = {
    "EmbeddingPlan": "sfm.inference",
    "GeneVocabulary": "sfm.genes",
    "ModelProtocol": "sfm.protocols",
    "NonCommercialWarning": "sfm.checkpoints",
    "PretrainedCells": "sfm.checkpoints",
    "TokenizedCellProtocol": "sfm.protocols",
    "TokenizedCells": "sfm.tokenizers",
    "embed_file": "sfm.files",
    "list_models": "sfm.checkpoints",
    "load": "sfm.checkpoints",
    "settings": "sfm._settings",
}


# Submodules and names are imported when first used: torch, transformers and scvi-tools take seconds each.
def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"sfm.{name}")
    if name in _OBJECTS:
        return getattr(import_module(_OBJECTS[name]), name)
    msg = f"module 'sfm' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
