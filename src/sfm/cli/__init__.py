"""The command `sfm`, which mirrors the functions of the same names."""

from __future__ import annotations

from sfm.cli._main import main

__all__ = ["main"]
