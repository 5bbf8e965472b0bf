"""Names of the slots that sfm writes, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenKeys:
    """Slots of :func:`sfm.pp.tokenize`."""

    obsm: str
    values: str
    uns: str


@dataclass(frozen=True)
class EmbeddingKeys:
    """Slots of :func:`sfm.tl.embed`."""

    obsm: str
    uns: str


def token_keys(key_added: str | None) -> TokenKeys:
    """Slots for tokens stored under `key_added` (default `"tokens"`)."""
    key = "tokens" if key_added is None else key_added
    return TokenKeys(obsm=key, values=f"{key}_values", uns=key)


def embedding_keys(key_added: str | None) -> EmbeddingKeys:
    """Slots for an embedding stored under `key_added` (default `"X_sfm"`)."""
    key = "X_sfm" if key_added is None else key_added
    return EmbeddingKeys(obsm=key, uns=key)
