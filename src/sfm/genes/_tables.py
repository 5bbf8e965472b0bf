"""The bundled gene tables: ids, symbols, previous symbols and orthologs of human and mouse."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from itertools import compress

import numpy as np

_BIOTYPES = {
    "c": "protein_coding",
    "i": "immune_receptor",
    "l": "lncRNA",
    "s": "small_RNA",
    "p": "pseudogene",
    "o": "other",
}


@dataclass(frozen=True, repr=False)
class SpeciesTables:
    """Genes of one species, all as plain dictionaries that must not be changed.

    Ids are Ensembl gene ids without version.
    """

    symbols: dict[str, str]
    """Id to current symbol, of named genes; human ids that have lost theirs have the last one, brought up to date."""
    ids: dict[str, str]
    """Current symbol to id. A symbol that several ids share means one of them, a coding one if there is any."""
    previous: dict[str, str]
    """Previous symbol to id, where that is unambiguous; a current symbol is never in here. Those of
    mouse are inferred from the human ones."""
    biotypes: dict[str, str]
    """Id to `"protein_coding"`, `"immune_receptor"` (IG and TR segments), `"lncRNA"`, `"small_RNA"`, `"pseudogene"` or
    `"other"`, of genes that have a symbol today."""
    orthologs: dict[str, str] = field(default_factory=dict)
    """Current symbol to symbol of the ortholog in the other species."""

    def coding_ids(self) -> list[str]:
        """Return the ids of the protein-coding genes that their symbol means, sorted."""
        return sorted(
            i for i, kind in self.biotypes.items() if kind == "protein_coding" and self.ids[self.symbols[i]] == i
        )


@dataclass(frozen=True, repr=False)
class GeneTables:
    """Human and mouse genes as bundled with sfm.

    `scripts/build_gene_tables.py` in the repository makes them and documents every rule.
    """

    human: SpeciesTables
    mouse: SpeciesTables
    source: str
    """Where the tables are from."""
    version: str
    """Hash of their content."""

    def of(self, species: str | None) -> SpeciesTables | None:
        """Return the tables of a species, `None` where there are none.

        Parameters
        ----------
        species
            `"human"` or `"mouse"`.
        """
        return {"human": self.human, "mouse": self.mouse}.get(species or "")

    def __repr__(self) -> str:
        return f"GeneTables(human={len(self.human.symbols)}, mouse={len(self.mouse.symbols)}, version={self.version!r})"


@cache
def gene_tables() -> GeneTables:
    """Return the bundled human and mouse gene tables.

    They are read once, in about 0.2 seconds.

    Returns
    -------
    The tables.

    Examples
    --------
    >>> import sfm
    >>> tables = sfm.genes.gene_tables()
    >>> tables.human.ids["CD3E"]
    'ENSG00000198851'
    >>> tables.mouse.orthologs["Cd3e"]
    'CD3E'
    """
    text = gzip.decompress(files("sfm").joinpath("resources/genes/gene_tables.tsv.gz").read_bytes()).decode()
    header, *lines = text.split("\n")
    meta = json.loads(header)
    columns = {name: line.split("\t") for name, line in zip(meta["columns"], lines, strict=False)}
    mouse_to_human = dict(zip(columns["ortholog_mouse"], columns["ortholog_human"], strict=True))
    return GeneTables(
        human=_human(columns, mouse_to_human),
        mouse=_species(columns, "mouse", "ENSMUSG", mouse_to_human),
        source=meta["source"],
        version=meta["version"],
    )


def _human(columns: dict[str, list[str]], mouse_to_human: dict[str, str]) -> SpeciesTables:
    orthologs: dict[str, str] = {}
    for mouse, human in mouse_to_human.items():
        if human not in orthologs or mouse.upper() == human.upper():
            orthologs[human] = mouse
    tables = _species(columns, "human", "ENSG", orthologs)
    for gene_id, symbol in zip(_ids(columns["former_id"], "ENSG"), columns["former_symbol"], strict=True):
        tables.symbols[gene_id] = symbol
        if symbol not in tables.previous:
            tables.ids.setdefault(symbol, gene_id)
    return tables


def _species(columns: dict[str, list[str]], species: str, prefix: str, orthologs: dict[str, str]) -> SpeciesTables:
    gene_ids, names = _ids(columns[f"{species}_id"], prefix), columns[f"{species}_symbol"]
    kinds = [_BIOTYPES[letter] for letter in columns[f"{species}_biotype"][0]]
    is_preferred = [flag == "1" for flag in columns[f"{species}_preferred"][0]]
    previous_ids = _ids(columns[f"{species}_previous_id"], prefix)
    return SpeciesTables(
        symbols=dict(zip(gene_ids, names, strict=True)),
        ids=dict(zip(compress(names, is_preferred), compress(gene_ids, is_preferred), strict=True)),
        previous=dict(zip(columns[f"{species}_previous_symbol"], previous_ids, strict=True)),
        biotypes=dict(zip(gene_ids, kinds, strict=True)),
        orthologs=orthologs,
    )


def _ids(deltas: list[str], prefix: str) -> list[str]:
    return [f"{prefix}{number:011d}" for number in np.cumsum(np.array(deltas, dtype=np.int64)).tolist()]
