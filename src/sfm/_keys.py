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
    if not key_added or "/" in key_added or _is_reserved(key_added):
        why = "has a '/', which files read as a path" if "/" in key_added else "is empty, or reserved by files"
        msg = f"key_added={key_added!r} cannot be the name of a slot: it {why}. Pass another name."
        raise ValueError(msg)
    return key_added


def _is_reserved(name: str) -> bool:
    """Whether anndata or zarr refuses a name."""
    return name in (".", "..", "_index")


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
    """Names of labels that files can hold: without `/`, which they read as a path, and none that they reserve."""
    names: list[str] = []
    for label in labels:
        name = label.replace("/", "|")
        if _is_reserved(name):
            name = f"|{name}"
        while name in names or (name != label and name in labels):
            name += "|"
        names.append(name)
    return names
