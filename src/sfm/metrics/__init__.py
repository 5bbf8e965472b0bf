"""Measures of how far labels, and the confidence in them, can be trusted."""

from __future__ import annotations

from sfm.metrics._calibration import expected_calibration_error, reliability_curve
from sfm.metrics._selection import area_under_risk_coverage, risk_coverage

__all__ = ["area_under_risk_coverage", "expected_calibration_error", "reliability_curve", "risk_coverage"]
