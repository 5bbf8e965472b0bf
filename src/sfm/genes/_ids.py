"""Recognising the style of gene names and the species they belong to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sfm.genes._tables import gene_tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ID = r"ENS[A-Z]{0,4}G\d{11}"
_TAIL = r"(?:\.\d+)?(?:_PAR_Y)?"
_WHOLE = re.compile(rf"({_ID})({_TAIL})", re.IGNORECASE)
_ID_FIRST = re.compile(rf"({_ID}){_TAIL}[_|](.+)", re.IGNORECASE)
_ID_LAST = re.compile(rf"(.+)[_|]({_ID}){_TAIL}", re.IGNORECASE)
# What missing values of a column become as text.
_EMPTY = {"", "nan", "NaN", "None", "<NA>"}
_SPECIES = {"ENSG": "human", "ENSMUSG": "mouse"}
#: A set of names has a style when this share of the names that are not empty has it.
DOMINANT = 0.8


class ParsedName(NamedTuple):
    """A gene name taken apart; `ensembl_id` is upper case and without version, `rest` what a compound joins to it."""

    style: str
    ensembl_id: str
    rest: str


# Most names are one of these two; an object for each would cost more than all the rest.
_SYMBOL, _NO_NAME = ParsedName("symbol", "", ""), ParsedName("empty", "", "")


def parse_name(name: str) -> ParsedName:
    """Take one gene name apart."""
    if "ENS" not in name.upper():
        return _NO_NAME if name.strip() in _EMPTY else _SYMBOL
    if found := _WHOLE.fullmatch(name):
        return ParsedName("ensembl_versioned" if found[2] else "ensembl", found[1].upper(), "")
    if found := _ID_FIRST.fullmatch(name):
        return ParsedName("compound", found[1].upper(), found[2])
    if found := _ID_LAST.fullmatch(name):
        return ParsedName("compound", found[2].upper(), found[1])
    return _SYMBOL


def id_styles(names: Iterable[str]) -> np.ndarray:
    """Tell how each gene is named.

    Parameters
    ----------
    names
        Gene names.

    Returns
    -------
    One of these per name, as text:

    `"symbol"`
        Anything that is none of the below.
    `"ensembl"`
        An Ensembl gene id of any species, in upper or lower case.
    `"ensembl_versioned"`
        The same with a version or the mark of the Y copy of a pseudoautosomal gene.
    `"compound"`
        An Ensembl gene id joined with something by `_` or `|`.
    `"empty"`
        Nothing, or the text of a missing value.

    Examples
    --------
    >>> import sfm
    >>> names = ["CD3E", "ENSG00000198851", "ENSG00000198851.10", "CD3E_ENSG00000198851", ""]
    >>> sfm.genes.id_styles(names).tolist()
    ['symbol', 'ensembl', 'ensembl_versioned', 'compound', 'empty']
    """
    return np.array([parse_name(str(name)).style for name in names], dtype="<U17")


def dominant_style(styles: Sequence[str] | np.ndarray) -> str:
    """Return the style that most names share: `"symbol"`, `"ensembl"`, `"ensembl_versioned"` or `"mixed"`."""
    found, counts = np.unique(np.asarray(styles, dtype=str), return_counts=True)
    count = {style: int(n) for style, n in zip(found.tolist(), counts, strict=True) if style != "empty"}
    total = sum(count.values())
    for style in ("symbol", "ensembl", "ensembl_versioned"):
        if total and count.get(style, 0) >= DOMINANT * total:
            return style
    return "mixed"


def species_of_id(ensembl_id: str) -> str:
    """Return `"human"`, `"mouse"` or the prefix of an Ensembl gene id without version."""
    prefix = ensembl_id[:-11]
    return _SPECIES.get(prefix, prefix)


def species_of_symbols(symbols: Iterable[str]) -> str | None:
    """Return the species whose bundled table knows more of the symbols, `None` if neither does or both do as much."""
    tables = gene_tables()
    human, mouse, previous = tables.human.ids, tables.mouse.ids, tables.human.previous
    n_human = n_mouse = 0
    for symbol in symbols:
        n_human += symbol in human or symbol in previous
        n_mouse += symbol in mouse
    if n_human == n_mouse:
        return None
    return "human" if n_human > n_mouse else "mouse"


def species_of_names(parsed: Sequence[ParsedName], symbols: Sequence[str]) -> tuple[str | None, str | None]:
    """Return the species of the whole set and that of its symbols, `None` where unknown.

    A set with more ids than symbols is of the species of most ids; symbols that tell nothing follow the ids.
    """
    count: dict[str, int] = {}
    for name in parsed:
        if name.ensembl_id:
            species = species_of_id(name.ensembl_id)
            count[species] = count.get(species, 0) + 1
    by_ids = min(count, key=lambda species: (-count[species], species)) if count else None
    by_symbols = species_of_symbols(symbols)
    of_set = by_ids if by_symbols is None or sum(count.values()) > len(symbols) else by_symbols
    return of_set, by_symbols or by_ids
