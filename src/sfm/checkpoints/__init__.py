"""Pretrained models: where they are, how they are read, and what was read."""

from __future__ import annotations

from sfm.checkpoints._catalogue import list_models
from sfm.checkpoints._licence import NonCommercialWarning
from sfm.checkpoints._pretrained import PretrainedCells
from sfm.checkpoints._resolve import load

__all__ = ["NonCommercialWarning", "PretrainedCells", "list_models", "load"]
