"""Whether query and reference have enough in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import numpy as np

from sfm._warn import warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sfm.genes import GeneVocabulary

_N_EXAMPLES = 3
_FEW_GENES = 0.5
_FAR = 0.99
_MANY_CELLS = 0.5


def shared_genes(query: np.ndarray, reference: np.ndarray, vocabulary: GeneVocabulary) -> np.ndarray:
    """Token ids that both sides have, sorted.

    Raises
    ------
    ValueError
        If there is none.

    Warns
    -----
    UserWarning
        If they are few of those that the smaller side has.
    """
    shared = np.intersect1d(query, reference)
    if shared.size == 0:
        _refuse_disjoint("gene of the model", _symbols(query, vocabulary), _symbols(reference, vocabulary))
    weights = [_weight(side, vocabulary) for side in (shared, query, reference)]
    if (share := _share(weights)) < _FEW_GENES:
        share_of = f"genes of the model, {100 * share:.0f} % of the expression expected on those"
        _warn_of_few(shared, query, reference, share_of, smaller=_smaller(weights))
    return shared


def shared_names(query: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Names of genes that both sides have, sorted; raises and warns as :func:`shared_genes` does."""
    shared = np.intersect1d(query, reference)
    if shared.size == 0:
        _refuse_disjoint("gene", query[:_N_EXAMPLES].tolist(), reference[:_N_EXAMPLES].tolist())
    weights = [float(side.size) for side in (shared, query, reference)]
    if (share := _share(weights)) < _FEW_GENES:
        share_of = f"genes, {100 * share:.0f} % of those"
        _warn_of_few(shared, query, reference, share_of, smaller=_smaller(weights))
    return shared


def _share(weights: list[float]) -> float:
    shared, query, reference = weights
    return shared / max(min(query, reference), 1e-12)


def _smaller(weights: list[float]) -> str:
    return "query" if weights[1] <= weights[2] else "reference"


def _refuse_disjoint(what: str, query: Sequence[str], reference: Sequence[str]) -> NoReturn:
    examples = " and ".join(
        f"{', '.join(map(repr, names))} in the {side}" for side, names in [("query", query), ("reference", reference)]
    )
    msg = (
        f"Query and reference have no {what} in common ({examples}). Annotate with a reference in which the same genes "
        "were measured."
    )
    raise ValueError(msg)


def _warn_of_few(shared: np.ndarray, query: np.ndarray, reference: np.ndarray, share_of: str, *, smaller: str) -> None:
    msg = (
        f"Query and reference share {shared.size} {share_of} that the {smaller} has ({query.size} in the query, "
        f"{reference.size} in the reference). Labels may be poor."
    )
    warn(msg)


def warn_if_far(novelty: np.ndarray) -> None:
    """Warn if most cells of the query are further from the reference than nearly all of its own."""
    share = float((novelty > _FAR).mean())
    if share > _MANY_CELLS:
        msg = (
            f"{100 * share:.0f} % of the cells are further from the reference than {100 * _FAR:.0f} % of its own cells "
            f"are from the others, where {100 * (1 - _FAR):.0f} % would be expected. Query and reference barely overlap: "
            "they may differ in tissue, species, chemistry or genes, and labels and confidence are not to be trusted."
        )
        warn(msg)


def _weight(token_ids: np.ndarray, vocabulary: GeneVocabulary) -> float:
    if vocabulary.expression is None:
        return float(token_ids.size)
    return float(np.asarray(vocabulary.expression)[np.isin(vocabulary.token_ids, token_ids)].sum())


def _symbols(token_ids: np.ndarray, vocabulary: GeneVocabulary) -> list[str]:
    rows = np.flatnonzero(np.isin(vocabulary.token_ids, token_ids))[:_N_EXAMPLES]
    names = vocabulary.gene_ids if vocabulary.symbols is None else vocabulary.symbols
    return [str(names[row]) for row in rows]
