"""Whether vectors of two AnnData were made in the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sfm.inference._cells import CellVectors

if TYPE_CHECKING:
    from anndata import AnnData

DEFAULT_REP = "X_sfm"

# What `tl.embed` writes about the data and the machine; everything else has to be equal.
_OF_THE_DATA = {
    "model",
    "revision",
    "slot",
    "input_state",
    "gene_names",
    "id_style",
    "species",
    "n_genes",
    "n_genes_known",
    "n_genes_duplicate",
    "coverage",
    "coverage_of",
    "gene_tables",
    "tokens_key",
    "layer",
    "use_raw",
    "device",
    "n_empty_cells",
}
# Differences of coverage above this mean that the two sides have different genes.
_SIMILAR_COVERAGE = 0.1


def stored_vectors(adata: AnnData, reference: AnnData, use_rep: str) -> tuple[CellVectors, CellVectors]:
    """Return the vectors in `obsm[use_rep]` of the query and of the reference.

    Raises
    ------
    KeyError
        If one of them is missing.
    ValueError
        If they were not made in the same way, or it is not recorded how.
    """
    sides = {"query": adata, "reference": reference}
    missing = [name for name, side in sides.items() if use_rep not in side.obsm]
    if missing:
        msg = (
            f"Did not find obsm[{use_rep!r}] in the {' and in the '.join(missing)}. Run `sfm.tl.embed(..., "
            f"key_added={use_rep!r})` with the same model on both, or leave use_rep out: both are then embedded anew."
        )
        raise KeyError(msg)
    _refuse_differences(*(_provenance(side, use_rep) for side in sides.values()), use_rep=use_rep)
    query, labelled = (
        CellVectors(_finite(side.obsm[use_rep], use_rep, name), dict(side.uns[use_rep]["params"]))
        for name, side in sides.items()
    )
    return query, labelled


def both_embedded(adata: AnnData, reference: AnnData) -> bool:
    """Whether both sides have vectors in the default slot, and these may be compared.

    Raises
    ------
    ValueError
        If both have, but they were not made in the same way.
    """
    if not all(DEFAULT_REP in side.obsm for side in (adata, reference)):
        return False
    query, labelled = (_provenance(side, DEFAULT_REP) for side in (adata, reference))
    _refuse_differences(query, labelled, use_rep=DEFAULT_REP)
    return query is not None and labelled is not None and _similar_genes(query, labelled)


def _similar_genes(query: dict[str, Any], labelled: dict[str, Any]) -> bool:
    coverages = [float(side.get("coverage", np.nan)) for side in (query, labelled)]
    return abs(coverages[0] - coverages[1]) <= _SIMILAR_COVERAGE


def _provenance(adata: AnnData, use_rep: str) -> dict[str, Any] | None:
    record = adata.uns.get(use_rep)
    params = record.get("params") if hasattr(record, "get") else None
    return dict(params) if params is not None and "weights_hash" in params else None


def _refuse_differences(query: dict[str, Any] | None, labelled: dict[str, Any] | None, *, use_rep: str) -> None:
    fix = (
        f"Embed both with one model: `sfm.tl.embed(adata, model, key_added={use_rep!r})`, and the same for the "
        "reference; or pass model= and leave use_rep out, so that both are embedded anew."
    )
    if query is None or labelled is None:
        silent = [name for name, side in [("query", query), ("reference", labelled)] if side is None]
        who = f"the {silent[0]} does not say" if len(silent) == 1 else "neither the query nor the reference says"
        msg = (
            f"Whether obsm[{use_rep!r}] of the query and of the reference may be compared is not known: {who} in "
            f"uns[{use_rep!r}]['params'] how the vectors were made. {fix}"
        )
        raise ValueError(msg)
    keys = [key for key in {**query, **labelled} if key not in _OF_THE_DATA and not key.endswith("_version")]
    if query.get("weights_hash") is None:  # a model without torch weights is known by its name alone
        keys.append("model")
    different = [key for key in keys if str(query.get(key)) != str(labelled.get(key))]
    if different:
        shown = ", ".join(f"{key} {_short(query.get(key))} and {_short(labelled.get(key))}" for key in different)
        models = f"{query.get('model')!r} and {labelled.get('model')!r}"
        msg = (
            f"obsm[{use_rep!r}] was not made in the same way in the query and in the reference (models {models}): "
            f"{shown}. {fix}"
        )
        raise ValueError(msg)


def _short(value: object) -> str:
    return repr(value[:12] if isinstance(value, str) else value)


def _finite(vectors: Any, use_rep: str, which: str) -> np.ndarray:
    values = np.asarray(vectors, dtype=np.float32)
    if not np.isfinite(values).all():
        msg = f"obsm[{use_rep!r}] of the {which} holds NaN or infinite values. Embed its cells again."
        raise ValueError(msg)
    return values
