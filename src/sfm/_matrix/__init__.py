"""Counts as runs of CSR rows, wherever they are stored: in memory, in a file, in a dask array."""

from __future__ import annotations

from sfm._matrix._select import CountMatrix, select_matrix

__all__ = ["CountMatrix", "select_matrix"]
