"""Plots of annotations, drawn with matplotlib; none of them changes the data."""

from __future__ import annotations

from sfm.pl._confidence import confidence
from sfm.pl._confusion import annotation_confusion
from sfm.pl._reliability import reliability
from sfm.pl._risk_coverage import risk_coverage

__all__ = ["annotation_confusion", "confidence", "reliability", "risk_coverage"]
