"""Running networks over tokenized cells: minibatches, devices, precision."""

from __future__ import annotations

from sfm.inference._classify import classify_tokens
from sfm.inference._embed import embed_tokens

__all__ = ["classify_tokens", "embed_tokens"]
