"""From AnnData to minibatches."""

from __future__ import annotations

from sfm.data._cache import TokenCache
from sfm.data._encode import EncodedCells, encode_cells
from sfm.data._open import open_cells
from sfm.data._shards import CellShards
from sfm.data._stream import CellStream, stream_cells

__all__ = ["CellShards", "CellStream", "EncodedCells", "TokenCache", "encode_cells", "open_cells", "stream_cells"]
