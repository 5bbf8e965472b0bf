"""Warnings that point at the caller's line, not into sfm."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

_PACKAGE = str(Path(__file__).parent)


def warn(msg: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the first line outside sfm."""
    if sys.version_info >= (3, 12):
        warnings.warn(msg, category, skip_file_prefixes=(_PACKAGE,))
        return
    frame, depth = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, depth = frame.f_back, depth + 1
    warnings.warn(msg, category, stacklevel=depth)
