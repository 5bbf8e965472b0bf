"""Training inside scvi-tools: data larger than memory, plan, callbacks, and what stops it.

The models of :mod:`sfm.model` use all of this in their `train`.
"""

from __future__ import annotations

from sfm.train._datamodule import CellDataModule
from sfm.train._finite import NonFiniteLossError
from sfm.train._plan import CellTrainingPlan
from sfm.train.callbacks import TrainerCallbackAdapter, as_lightning_callbacks, reporting_callbacks

__all__ = [
    "CellDataModule",
    "CellTrainingPlan",
    "NonFiniteLossError",
    "TrainerCallbackAdapter",
    "as_lightning_callbacks",
    "reporting_callbacks",
]
