"""Arguments of `annotate` that are refused before anything is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sfm._keys import annotation_keys
from sfm.annotation._clusters import refuse_without_igraph
from sfm.annotation._settings import is_number
from sfm.annotation._voting import clusters_from_obs

if TYPE_CHECKING:
    from anndata import AnnData


def refuse_bad_options(
    adata: AnnData,
    *,
    min_confidence: float | None,
    max_novelty: float | None,
    majority_voting: str | bool | None,
    key_added: str | None,
) -> None:
    """Raise before anything is computed."""
    for name, value in [("min_confidence", min_confidence), ("max_novelty", max_novelty)]:
        if value is not None and not (is_number(value) and 0 <= value <= 1):
            msg = f"{name}={value!r} is not between 0 and 1. Pass a probability, or None to reject no cell by it."
            raise ValueError(msg)
    if majority_voting is True:
        refuse_without_igraph()
    elif isinstance(majority_voting, str):
        clusters_from_obs(adata, majority_voting)
    elif majority_voting not in (None, False):
        msg = f"majority_voting={majority_voting!r} is neither True nor the name of a column of adata.obs."
        raise TypeError(msg)
    annotation_keys(key_added)  # raises for what no slot can be called


def reference_options(where: dict[str, Any], given: dict[str, Any] | None) -> dict[str, Any]:
    """Which matrix of the reference is read: the same as of the query, unless other options are given."""
    if given is None:
        return where
    unknown = [key for key in given if key not in where]
    if unknown:
        msg = f"reference_kwargs has {unknown[0]!r}. It takes {', '.join(map(repr, where))}."
        raise TypeError(msg)
    return {"layer": None, "use_raw": False, "gene_symbols": None, **given}
