"""References that cells are annotated from: classifiers of vectors, calibration, rejection, voting and label trees."""

from __future__ import annotations

from sfm.annotation._celltypist import CellTypistReference
from sfm.annotation._reference import Prediction, Reference

__all__ = ["CellTypistReference", "Prediction", "Reference"]
