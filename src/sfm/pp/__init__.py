"""Preprocessing: functions that encode the expression matrix."""

from __future__ import annotations

from sfm.pp._recover import recover_counts
from sfm.pp._tokenize import tokenize

__all__ = ["recover_counts", "tokenize"]
