"""Names of the slots that sfm writes, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


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


@dataclass(frozen=True)
class AnnotationKeys:
    """Slots of :func:`sfm.tl.annotate`."""

    label: str
    confidence: str
    novelty: str
    consensus: str
    probabilities: str
    uns: str


def slot_name(key_added: str | None, default: str) -> str:
    """Name of a slot, or raise if no file could hold it."""
    if key_added is None:
        return default
    if not key_added or "/" in key_added:
        msg = f"key_added={key_added!r} cannot be the name of a slot: it is empty, or has a '/', which files read as a path."
        raise ValueError(msg)
    return key_added


def token_keys(key_added: str | None) -> TokenKeys:
    """Slots for tokens stored under `key_added` (default `"tokens"`)."""
    key = slot_name(key_added, "tokens")
    return TokenKeys(obsm=key, values=f"{key}_values", uns=key)


def embedding_keys(key_added: str | None) -> EmbeddingKeys:
    """Slots for an embedding stored under `key_added` (default `"X_sfm"`)."""
    key = slot_name(key_added, "X_sfm")
    return EmbeddingKeys(obsm=key, uns=key)


def annotation_keys(key_added: str | None) -> AnnotationKeys:
    """Slots for labels stored under `key_added` (default `"sfm_label"`)."""
    key = slot_name(key_added, "sfm_label")
    return AnnotationKeys(
        label=key,
        confidence=f"{key}_confidence",
        novelty=f"{key}_novelty",
        consensus=f"{key}_consensus",
        probabilities=f"{key}_probabilities",
        uns=key,
    )


def column_names(labels: Sequence[str]) -> list[str]:
    """Names of labels without `/`, which files read as a path."""
    names: list[str] = []
    for label in labels:
        name = label.replace("/", "|")
        while name in names or (name != label and name in labels):
            name += "|"
        names.append(name)
    return names
