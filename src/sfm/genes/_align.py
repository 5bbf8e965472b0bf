"""Matching the genes of a data set to a vocabulary."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sfm.genes._alignment import FATES, GeneAlignment
from sfm.genes._ids import dominant_style, parse_name, species_of_names
from sfm.genes._match import vocabulary_index

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike

    from sfm.genes._match import Match
    from sfm.genes._vocabulary import GeneVocabulary

_MADE_UNIQUE = re.compile(r"(.+)[-.]\d+")


def align_genes(names: Iterable[str], vocabulary: GeneVocabulary, *, totals: ArrayLike | None = None) -> GeneAlignment:
    """Find each gene of a data set in a vocabulary, however it is named.

    The first rule that finds a gene decides:

    1. The name is a gene id of the vocabulary (`exact`), or one of its aliases (`model_alias`).
    2. The name is an Ensembl id that the vocabulary has, once case, version, the mark of a pseudoautosomal Y copy, or
       what a compound joins to it are ignored (`version_stripped`).
    3. The name is a symbol of the vocabulary (`via_symbol`). Case matters. If several of its genes share the symbol,
       the one whose Ensembl id it means today has it, else the one with the lowest token id.
    4. The name is a current symbol, and the vocabulary has the Ensembl id it means (`via_ensembl_id`); or it is an
       Ensembl id, and rule 3, 4 or 5 holds for its current symbol, or failing that, for what a compound joins to it
       (`via_symbol`, `previous_symbol`).
    5. The name is a previous symbol of a gene that the vocabulary has by Ensembl id or current symbol, or the
       vocabulary has a gene by a previous symbol of this one (`previous_symbol`). A symbol that is current never counts
       as a previous one.
    6. The gene is of mouse, the vocabulary of human or the reverse, and rule 3, 4 or 5 holds for the ortholog
       (`ortholog`). Ensembl ids tell their species; symbols are of mouse when more symbols of the whole set are known
       in mouse than in human.
    7. Nothing is found, but the name ends in `-1` or `.1` and so on, and without that it is a known name of the same
       set, as :meth:`anndata.AnnData.var_names_make_unique` and R leave it (`made_unique`).

    A vocabulary with another `matching` than `"all"` knows rule 1 alone.

    Everything else is `other_species` if an Ensembl id says so, and `unknown` otherwise. For a vocabulary without
    species, rules 4 to 6 do not apply. Rules 4 to 6 use the tables of :func:`~sfm.genes.gene_tables`. The order of the
    genes does not matter.

    Parameters
    ----------
    names
        Names of the genes: symbols, Ensembl ids with or without version, or a mix.
    vocabulary
        Genes that the model knows.
    totals
        Counts of each gene over all cells, shape `(n_vars,)`; the measure of coverage for a vocabulary without
        expected expression.

    Returns
    -------
    Token ids, and what became of each gene.

    Raises
    ------
    ValueError
        If `totals` has another length than `names`.

    Examples
    --------
    >>> import sfm
    >>> vocabulary = sfm.GeneVocabulary(["ENSG00000198851", "ENSG00000156738"])
    >>> alignment = sfm.genes.align_genes(["MS4A1", "ENSG00000198851.10", "Cd3e", "GENE-X"], vocabulary)
    >>> alignment.token_ids.tolist()
    [5, 4, -1, -1]
    >>> alignment.fate["fate"].tolist()
    ['via_symbol', 'version_stripped', 'unknown', 'unknown']
    """
    columns = [str(name) for name in names]
    parsed = [parse_name(name) for name in columns]
    symbols = [name for name, parts in zip(columns, parsed, strict=True) if parts.style == "symbol"]
    species, symbol_species = species_of_names(parsed, symbols)
    index = vocabulary_index(vocabulary)
    matches = [index.find(name, parts, symbol_species) for name, parts in zip(columns, parsed, strict=True)]
    if vocabulary.matching == "all":
        matches = _undo_make_unique(columns, matches)
    rows = np.array([row for row, _ in matches], dtype=np.int64)
    known = rows >= 0
    token_ids = np.full(len(columns), -1, dtype=np.int32)
    token_ids[known] = vocabulary.token_ids[rows[known]]
    styles = [parts.style for parts in parsed]
    coverage, coverage_of = _coverage(rows, vocabulary, totals)
    return GeneAlignment(
        token_ids=token_ids,
        fate=_fate_table(columns, styles, matches, token_ids, vocabulary),
        id_style=dominant_style(styles),
        species=species,
        coverage=coverage,
        coverage_of=coverage_of,
        n_known=int(known.sum()),
        vocabulary_species=vocabulary.species,
    )


def _undo_make_unique(names: list[str], matches: list[Match]) -> list[Match]:
    known = {name: row for name, (row, _) in zip(names, matches, strict=True) if row >= 0}
    completed = list(matches)
    for i, (row, _) in enumerate(matches):
        found = _MADE_UNIQUE.fullmatch(names[i]) if row < 0 else None
        if found and found[1] in known:
            completed[i] = known[found[1]], "made_unique"
    return completed


def _coverage(rows: np.ndarray, vocabulary: GeneVocabulary, totals: ArrayLike | None) -> tuple[float, str]:
    known = rows >= 0
    counts = None if totals is None else np.asarray(totals, dtype=np.float64)
    if counts is not None and counts.shape != rows.shape:
        msg = f"totals has shape {counts.shape} for {len(rows)} names. Pass the counts of each gene."
        raise ValueError(msg)
    found = np.unique(rows[known])
    if vocabulary.expression is not None:
        return min(1.0, float(vocabulary.expression[found].sum())), "expression"
    if counts is not None and counts.sum() > 0:
        return float(counts[known].sum() / counts.sum()), "counts"
    return found.size / max(1, len(vocabulary)), "genes"


def _fate_table(
    names: list[str], styles: list[str], matches: list[Match], token_ids: np.ndarray, vocabulary: GeneVocabulary
) -> pd.DataFrame:
    code = {fate: i for i, fate in enumerate(FATES)}
    tokens = pd.Series(token_ids)
    return pd.DataFrame(
        {
            "id_style": styles,
            "fate": pd.Categorical.from_codes([code[fate] for _, fate in matches], categories=list(FATES)),
            "gene": [vocabulary.gene_ids[row] if row >= 0 else "" for row, _ in matches],
            "token_id": token_ids,
            "duplicate": ((token_ids >= 0) & tokens.duplicated(keep=False)).to_numpy(),
        },
        index=pd.Index(names, dtype=object),
    )
