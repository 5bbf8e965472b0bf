"""Checking and completing the fields of a gene vocabulary."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np

from sfm.genes._ids import parse_name, species_of_id
from sfm.genes._tables import gene_tables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike

Matching = Literal["all", "exact", "any_case"]
_MAX_TOKEN_ID = np.iinfo(np.int32).max


def unique_names(gene_ids: Sequence[str]) -> tuple[str, ...]:
    """Return the gene ids as text; they must be there and differ."""
    if isinstance(gene_ids, str):
        msg = f"gene_ids={gene_ids!r} is one text. Pass a list of gene ids."
        raise TypeError(msg)
    names = tuple(map(str, gene_ids))
    if len(set(names)) < len(names):
        name, times = Counter(names).most_common(1)[0]
        msg = f"gene_ids must be unique, but {name!r} is there {times} times. Keep one of each."
        raise ValueError(msg)
    if "" in names:
        msg = f"gene_ids must not be empty text, but gene_ids[{names.index('')}] is ''. Leave such genes out."
        raise ValueError(msg)
    return names


def species_of(gene_ids: Sequence[str]) -> str | None:
    """Return the species that all gene ids agree on by their Ensembl prefix."""
    species = {
        species_of_id(ensembl_id) for ensembl_id in (parse_name(name).ensembl_id for name in gene_ids) if ensembl_id
    }
    has_others = any(not parse_name(name).ensembl_id for name in gene_ids)
    return species.pop() if len(species) == 1 and not has_others else None


def symbols_of(gene_ids: Sequence[str], symbols: Sequence[str] | None) -> tuple[str, ...]:
    """Return one symbol per gene, by default from the bundled tables."""
    if symbols is None:
        return tuple(_default_symbol(name) for name in gene_ids)
    if len(symbols) != len(gene_ids):
        msg = f"symbols has {len(symbols)} entries for {len(gene_ids)} gene_ids. Pass one per gene, '' where unknown."
        raise ValueError(msg)
    return tuple(map(str, symbols))


def _default_symbol(name: str) -> str:
    ensembl_id = parse_name(name).ensembl_id
    if not ensembl_id:
        return name
    tables = gene_tables().of(species_of_id(ensembl_id))
    return tables.symbols.get(ensembl_id, "") if tables else ""


def special_tokens_of(special_tokens: Mapping[str, int]) -> dict[str, int]:
    """Return the special tokens with plain ids that differ."""
    tokens = {str(name): int(token_id) for name, token_id in special_tokens.items()}
    by_id: dict[int, str] = {}
    for name, token_id in tokens.items():
        if not 0 <= token_id <= _MAX_TOKEN_ID:
            msg = f"special_tokens[{name!r}] is {token_id}. Token ids run from 0 to {_MAX_TOKEN_ID}."
            raise ValueError(msg)
        if token_id in by_id:
            msg = f"special_tokens {by_id[token_id]!r} and {name!r} both have token id {token_id}. Give each its own."
            raise ValueError(msg)
        by_id[token_id] = name
    return tokens


def token_ids_of(token_ids: ArrayLike | None, gene_ids: Sequence[str], special_tokens: Mapping[str, int]) -> np.ndarray:
    """Return one token id per gene, by default contiguous after the special tokens."""
    if token_ids is None:
        start = max(special_tokens.values(), default=-1) + 1
        return _frozen(np.arange(start, start + len(gene_ids), dtype=np.int32))
    ids = _numbers("token_ids", token_ids, len(gene_ids))
    wrong = np.flatnonzero((ids < 0) | (ids > _MAX_TOKEN_ID) | (ids != np.round(ids)))
    if wrong.size:
        name, token_id = gene_ids[wrong[0]], ids[wrong[0]]
        msg = f"token_ids must be whole numbers from 0 to {_MAX_TOKEN_ID}; that of {name!r} is {token_id:g}."
        raise ValueError(msg)
    taken = {token_id: name for name, token_id in special_tokens.items()}
    for name, token_id in zip(gene_ids, ids.astype(np.int64).tolist(), strict=True):
        if token_id in taken:
            msg = f"{taken[token_id]!r} and {name!r} both have token id {token_id}. Give each its own."
            raise ValueError(msg)
        taken[token_id] = name
    return _frozen(ids.astype(np.int32))


def medians_of(medians: ArrayLike, n_genes: int) -> np.ndarray:
    """Return positive medians."""
    values = _numbers("medians", medians, n_genes)
    wrong = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if wrong.size:
        msg = (
            f"medians must be finite and above 0, but medians[{wrong[0]}] is {values[wrong[0]]}. Use 1.0 where unknown."
        )
        raise ValueError(msg)
    return _frozen(values)


def expression_of(expression: ArrayLike, n_genes: int) -> np.ndarray:
    """Return shares that sum to 1."""
    values = _numbers("expression", expression, n_genes)
    wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if wrong.size:
        msg = f"expression must be finite and not negative, but expression[{wrong[0]}] is {values[wrong[0]]}."
        raise ValueError(msg)
    total = values.sum()
    if not total > 0:
        msg = "expression sums to 0. Pass expression=None if it is unknown."
        raise ValueError(msg)
    # Shares that were scaled before stay as they are, to the last bit.
    return _frozen(values if abs(total - 1) < 1e-9 else values / total)


def matching_of(matching: str) -> Matching:
    """Return one of the ways of matching."""
    if matching not in get_args(Matching):
        msg = f"Unknown matching={matching!r}. Choose one of {', '.join(map(repr, get_args(Matching)))}."
        raise ValueError(msg)
    return cast("Matching", matching)


def aliases_of(aliases: Mapping[str, str], gene_ids: Sequence[str]) -> dict[str, str]:
    """Return other names of genes; the genes must be there."""
    names = {str(name): str(gene_id) for name, gene_id in aliases.items()}
    unknown = sorted(set(names.values()) - set(gene_ids))
    if unknown:
        msg = f"aliases names {unknown[0]!r}, which is none of gene_ids. Leave out aliases of genes that are not there."
        raise ValueError(msg)
    return names


def _numbers(name: str, values: ArrayLike, n_genes: int) -> np.ndarray:
    numbers = np.array(values, dtype=np.float64)
    if numbers.shape != (n_genes,):
        msg = f"{name} has shape {numbers.shape} for {n_genes} gene_ids. Pass one number per gene."
        raise ValueError(msg)
    return numbers


def _frozen(values: np.ndarray) -> np.ndarray:
    values.setflags(write=False)
    return values
