"""Runs over files larger than memory, which go on where they were interrupted."""

from __future__ import annotations

from sfm.files._embed_file import embed_file

__all__ = ["embed_file"]
