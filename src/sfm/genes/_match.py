"""Finding one gene name in a vocabulary."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from sfm.genes._ids import parse_name, species_of_id
from sfm.genes._tables import gene_tables

if TYPE_CHECKING:
    from sfm.genes._ids import ParsedName
    from sfm.genes._tables import SpeciesTables
    from sfm.genes._vocabulary import GeneVocabulary

#: Row of the vocabulary and how it was found.
Match = tuple[int, str]
UNKNOWN: Match = (-1, "unknown")
OTHER_SPECIES: Match = (-1, "other_species")


class VocabularyIndex:
    """The names of a vocabulary, for looking up rows; of genes that share one, one has it, see `_order`."""

    def __init__(self, vocabulary: GeneVocabulary, parsed: list[ParsedName]) -> None:
        tables = gene_tables()
        self.species = vocabulary.species
        self.tables = tables.of(vocabulary.species)
        other = {"human": "mouse", "mouse": "human"}.get(vocabulary.species or "")
        self.other_species, self.other_tables = other, tables.of(other)
        self.by_name = {name: row for row, name in enumerate(vocabulary.gene_ids)}
        self.by_alias = {name: self.by_name[gene_id] for name, gene_id in vocabulary.aliases.items()}
        self.matching = vocabulary.matching
        capitals = {name.upper(): row for name, row in reversed(self.by_name.items())}
        self.by_capitals = capitals | {name.upper(): row for name, row in self.by_alias.items()}
        self.by_ensembl: dict[str, int] = {}
        self.by_symbol: dict[str, int] = {}
        self.by_previous: dict[str, int] = {}
        for row in self._order(vocabulary, parsed):
            ensembl_id, symbol = parsed[row].ensembl_id, vocabulary.symbols[row]
            if ensembl_id:
                self.by_ensembl.setdefault(ensembl_id, row)
            if symbol:
                self.by_symbol.setdefault(symbol, row)
            # A gene known by its id is that gene, whatever the vocabulary calls it.
            if self.tables and symbol in self.tables.previous and ensembl_id not in self.tables.biotypes:
                self.by_previous.setdefault(self.tables.previous[symbol], row)

    def _order(self, vocabulary: GeneVocabulary, parsed: list[ParsedName]) -> list[int]:
        """Return all rows; first those whose symbol means their id today, then by token id."""
        meant = self.tables.ids if self.tables else {}
        names = zip(vocabulary.symbols, parsed, strict=True)
        is_old = np.array([meant.get(symbol, "") != parts.ensembl_id for symbol, parts in names], dtype=bool)
        order: list[int] = np.lexsort((vocabulary.token_ids, is_old)).tolist()
        return order

    def find(self, name: str, parsed: ParsedName, symbol_species: str | None) -> Match:
        """Return the row of a name; see `align_genes` for the order of the rules."""
        if name in self.by_name:
            return self.by_name[name], "exact"
        if parsed.style == "empty":
            return UNKNOWN
        if self.matching != "all":
            return self._find_alone(name)
        alias = parsed.ensembl_id or name
        if alias in self.by_alias:
            return self.by_alias[alias], "model_alias"
        return self._find_ensembl(name, parsed) if parsed.ensembl_id else self._find_symbol(name, symbol_species)

    def _find_ensembl(self, name: str, parsed: ParsedName) -> Match:
        if parsed.ensembl_id in self.by_ensembl:
            return self.by_ensembl[parsed.ensembl_id], "version_stripped"
        if name in self.by_symbol:
            return self.by_symbol[name], "via_symbol"
        species = species_of_id(parsed.ensembl_id)
        found = self._find_id(parsed.ensembl_id, species)
        if found[0] < 0 and parsed.rest:
            found = self._find_symbol(parsed.rest, species)
        is_foreign = found[0] < 0 and self.species is not None and species != self.species
        return OTHER_SPECIES if is_foreign else found

    def _find_alone(self, name: str) -> Match:
        """Find what is neither an exact gene id nor to be looked up in tables."""
        if name in self.by_alias:
            return self.by_alias[name], "model_alias"
        row = self.by_capitals.get(name.upper(), -1) if self.matching == "any_case" else -1
        return (row, "via_symbol") if row >= 0 else UNKNOWN

    def _find_id(self, ensembl_id: str, species: str) -> Match:
        tables = self._tables_of(species)
        if tables is None:
            return UNKNOWN
        symbol = tables.symbols.get(ensembl_id, "")
        found = self._find_symbol(symbol, species) if symbol else UNKNOWN
        if found[0] < 0 and species == self.species and ensembl_id in self.by_previous:
            return self.by_previous[ensembl_id], "previous_symbol"
        return (found[0], "via_symbol") if found[1] == "via_ensembl_id" else found

    def _find_symbol(self, symbol: str, species: str | None) -> Match:
        if symbol in self.by_symbol:
            return self.by_symbol[symbol], "via_symbol"
        if species is not None and species == self.other_species:
            return self._find_ortholog(symbol)
        if self.tables is None or species not in (self.species, None):
            return UNKNOWN
        return self._find_in_tables(symbol, self.tables)

    def _find_in_tables(self, symbol: str, tables: SpeciesTables) -> Match:
        if symbol in tables.ids:
            gene_id = tables.ids[symbol]
            if gene_id in self.by_ensembl:
                return self.by_ensembl[gene_id], "via_ensembl_id"
        elif symbol in tables.previous:
            gene_id = tables.previous[symbol]
            current = tables.symbols.get(gene_id, "")
            if gene_id in self.by_ensembl:
                return self.by_ensembl[gene_id], "previous_symbol"
            if current in self.by_symbol:
                return self.by_symbol[current], "previous_symbol"
        else:
            return UNKNOWN
        # The vocabulary may be the older of the two and name the gene by a previous symbol.
        return (self.by_previous[gene_id], "previous_symbol") if gene_id in self.by_previous else UNKNOWN

    def _find_ortholog(self, symbol: str) -> Match:
        other, tables = self.other_tables, self.tables
        if other is None or tables is None:
            return UNKNOWN
        if symbol not in other.orthologs:
            symbol = other.symbols.get(other.previous.get(symbol, ""), "")
        ortholog = other.orthologs.get(symbol, "")
        if not ortholog:
            return UNKNOWN
        row = self.by_symbol.get(ortholog, -1)
        row = row if row >= 0 else self._find_in_tables(ortholog, tables)[0]
        return (row, "ortholog") if row >= 0 else UNKNOWN

    def _tables_of(self, species: str) -> SpeciesTables | None:
        if species == self.species:
            return self.tables
        return self.other_tables if species == self.other_species else None


@lru_cache(maxsize=8)
def vocabulary_index(vocabulary: GeneVocabulary) -> VocabularyIndex:
    """Return the index of a vocabulary, made once."""
    return VocabularyIndex(vocabulary, [parse_name(name) for name in vocabulary.gene_ids])
