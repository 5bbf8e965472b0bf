"""Tools: functions that add an annotation to the cells."""

from __future__ import annotations

from sfm.tl._embed import embed

__all__ = ["embed"]
