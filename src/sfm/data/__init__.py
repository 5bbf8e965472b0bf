"""From AnnData to minibatches."""

from __future__ import annotations

from sfm.data._encode import EncodedCells, encode_cells

__all__ = ["EncodedCells", "encode_cells"]
