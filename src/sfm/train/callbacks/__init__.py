"""Callbacks of transformers inside a Lightning trainer."""

from __future__ import annotations

from sfm.train.callbacks._adapter import TrainerCallbackAdapter
from sfm.train.callbacks._entry import as_lightning_callbacks
from sfm.train.callbacks._report import reporting_callbacks

__all__ = ["TrainerCallbackAdapter", "as_lightning_callbacks", "reporting_callbacks"]
