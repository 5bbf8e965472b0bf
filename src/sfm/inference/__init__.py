"""Running networks over tokenized cells: minibatches, devices, precision."""

from __future__ import annotations

from sfm.inference._classify import classify_tokens
from sfm.inference._embed import embed_tokens
from sfm.inference._plan import EmbeddingPlan

__all__ = ["EmbeddingPlan", "classify_tokens", "embed_tokens"]
