"""Finding the features of a CellTypist model among the genes of a query."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from anndata.utils import make_index_unique

from sfm._settings import settings
from sfm._warn import warn
from sfm.genes import GeneVocabulary, align_genes
from sfm.genes._ids import species_of_symbols

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from sfm._matrix import CountMatrix
    from sfm.annotation._celltypist_file import ModelParts
    from sfm.genes import GeneAlignment

Matching = Literal["exact", "aligned"]
_N_EXAMPLES = 3


@dataclass(frozen=True)
class FeatureMatch:
    """Which column of a query is which feature of a model."""

    rows: np.ndarray
    """Feature of each column, int64 of shape `(n_vars,)`; -1 = none."""
    how: Matching
    """`"exact"`: names are equal, as CellTypist has it; `"aligned"`: found by :func:`sfm.genes.align_genes`."""
    coverage: float
    """Share of the expression of the reference that falls on features found, from 0 to 1."""
    alignment: GeneAlignment | None = None

    @property
    def found(self) -> np.ndarray:
        """Features that were found, ascending."""
        return np.unique(self.rows[self.rows >= 0])

    def params(self) -> dict[str, Any]:
        """Provenance for `uns`."""
        aligned = self.alignment.params() if self.alignment is not None else {}
        return {
            **aligned,
            "gene_matching": self.how,
            "n_genes": len(self.rows),
            "n_features_found": len(self.found),
            "coverage": float(self.coverage),
            "coverage_of": "expression",
        }


def match_features(names: Sequence[str], parts: ModelParts) -> FeatureMatch:
    """Find features by name; by :func:`sfm.genes.align_genes` where that finds more than twice as many."""
    row_of = {feature: row for row, feature in enumerate(parts.features)}
    rows = np.array([row_of.get(name, -1) for name in _unique(names)], dtype=np.int64)
    n_exact = int((rows >= 0).sum())
    if 2 * n_exact < min(len(names), len(parts.features)):
        aligned, alignment = _aligned(names, parts.features)
        if 2 * n_exact < np.unique(aligned[aligned >= 0]).size:
            return FeatureMatch(aligned, "aligned", _coverage(aligned, parts), alignment)
    return FeatureMatch(rows, "exact", _coverage(rows, parts))


def _unique(names: Sequence[str]) -> Sequence[str]:
    """Name duplicates apart as CellTypist does, so that the first gene of a name is the one that counts."""
    if len(set(names)) == len(names):
        return names
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return make_index_unique(pd.Index(names, dtype=object)).tolist()


def _aligned(names: Sequence[str], features: tuple[str, ...]) -> tuple[np.ndarray, GeneAlignment]:
    named = [(row, feature) for row, feature in enumerate(features) if feature]
    species = species_of_symbols(features)  # that of Ensembl ids is known without it
    vocabulary = GeneVocabulary([name for _, name in named], special_tokens={}, species=species)
    alignment = align_genes(names, vocabulary)
    rows = np.array([*(row for row, _ in named), -1], dtype=np.int64)
    return rows[alignment.token_ids], alignment


def _coverage(rows: np.ndarray, parts: ModelParts) -> float:
    """Share of the mean expression of the training cells, on the linear scale, that falls on features found."""
    expression = np.expm1(np.clip(parts.mean, 0, 20))
    if not expression.any():
        expression = np.ones(len(parts.features))
    return float(expression[np.unique(rows[rows >= 0])].sum() / expression.sum())


def check_features(match: FeatureMatch, adata: AnnData, matrix: CountMatrix, parts: ModelParts, *, model: str) -> None:
    """Warn or raise if too few features were found, at the same shares as :func:`sfm.genes.check_coverage`."""
    n_found = len(match.found)
    ours, theirs = matrix.names[:_N_EXAMPLES].tolist(), parts.features[:_N_EXAMPLES]
    found = (
        f"{n_found} of its {len(parts.features)} features are in {matrix.names_slot} ({len(match.rows)} genes), "
        f"which stand for {100 * match.coverage:.1f} % of the expression of its training cells"
    )
    if n_found == 0:
        msg = (
            f"{model} shares no gene with the data: {matrix.names_slot} holds {', '.join(map(repr, ours))}, its "
            f"features are {', '.join(map(repr, theirs))}. "
            f"{_remedy(adata, matrix, parts)}"
        )
        raise ValueError(msg)
    if match.coverage < settings.min_gene_coverage:
        msg = (
            f"{model} shares too few genes with the data: {found}, below {100 * settings.min_gene_coverage:g} %. "
            f"{_remedy(adata, matrix, parts)} To annotate a small panel all the same, lower "
            "`sfm.settings.min_gene_coverage`."
        )
        raise ValueError(msg)
    if match.coverage < settings.warn_gene_coverage:
        msg = (
            f"{model} shares few genes with the data: {found}, below {100 * settings.warn_gene_coverage:g} %. Labels "
            "rest on those alone and may be poor. For a targeted panel or a data set of variable genes this is to be "
            "expected; pass all genes if you have them."
        )
        warn(msg)


def _remedy(adata: AnnData, matrix: CountMatrix, parts: ModelParts) -> str:
    """Name the column of var that has more of the features, if there is one."""
    var = adata.raw.var if matrix.names_slot.startswith("adata.raw") else adata.var
    texts = [name for name in var.columns if not pd.api.types.is_numeric_dtype(var[name])]
    features = set(parts.features)
    n_found = {name: len(features.intersection(var[name])) for name in texts}
    best = max(n_found, key=lambda name: n_found[name], default="")
    if n_found.get(best, 0) > len(features.intersection(matrix.names.tolist())):
        return f"The column {best!r} of var has {n_found[best]} of them: pass gene_symbols={best!r}."
    return (
        "If var has a column of gene symbols or Ensembl ids, pass it as gene_symbols=; otherwise use a model for the "
        "species of the data."
    )
