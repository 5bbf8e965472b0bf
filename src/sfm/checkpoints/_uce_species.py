"""The genes of a species as UCE knows them: protein embeddings, and places on chromosomes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from sfm.checkpoints._torch_archive import read_torch_archive
from sfm.checkpoints._unpickler import read_pickle

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

CHROMOSOMES = "species_chrom.csv"
OFFSETS = "species_offsets.pkl"
NEW_SPECIES = "new_species_protein_embeddings.csv"
SUFFIX = ".gene_symbol_to_embedding_ESM2.pt"
_ASSEMBLIES = {
    "human": "Homo_sapiens.GRCh38",
    "mouse": "Mus_musculus.GRCm39",
    "frog": "Xenopus_tropicalis.Xenopus_tropicalis_v9.1",
    "zebrafish": "Danio_rerio.GRCz11",
    "mouse_lemur": "Microcebus_murinus.Mmur_3.0",
    "pig": "Sus_scrofa.Sscrofa11.1",
    "macaca_fascicularis": "Macaca_fascicularis.Macaca_fascicularis_6.0",
    "macaca_mulatta": "Macaca_mulatta.Mmul_10",
}
_N_SPECIAL = 4
_PAGE = "figshare.com/articles/dataset/_/24320806"


@dataclass(frozen=True)
class Species:
    """Genes of a species that have a protein embedding and a place, and all that the table of tokens is made of."""

    name: str
    genes: list[str]
    """Symbols in capitals."""
    token_ids: np.ndarray
    chromosomes: np.ndarray
    """Token id of the chromosome of each gene."""
    starts: np.ndarray
    chromosome_names: dict[int, str]
    """Name of each chromosome by token id."""
    table: Tensor
    """Vectors of the tokens in `segments`."""
    segments: list[list[int]]
    """First token and length of each run of tokens."""
    first_chromosome: int
    """First of the tokens of chromosomes, which are the last ones."""
    vocab_size: int


@dataclass(frozen=True)
class NewSpecies:
    """Where the files of a species are that the model was not trained with."""

    proteins: str | Path | None = None
    chromosomes: str | Path | None = None
    token_file: str | Path | None = None
    taxonomy_id: int | None = None


def read_species(directory: Path, name: str, table: Tensor, new: NewSpecies) -> Species:
    """Read the genes of a species.

    Parameters
    ----------
    directory
        Where the files of UCE are.
    name
        The species.
    table
        The token table of the model, shape `(tokens, dims)`.
    new
        Files of a species that the model does not know.
    """
    offsets = _read_offsets(directory)
    if name in offsets and new == NewSpecies():
        return _read_known(directory, name, table, offsets)
    return _read_new(directory, name, table, new, known=offsets)


def _read_known(directory: Path, name: str, table: Tensor, offsets: dict[str, int]) -> Species:
    proteins = _read_proteins(_protein_file(directory, name))
    places = _read_places(directory / CHROMOSOMES)
    codes = _codes(places)
    first_chromosome = table.shape[0] - len(codes)
    genes = _in_capitals(proteins)
    first = int(offsets[name])
    ends = _ends(directory, {first: len(proteins)}, offsets, first_chromosome)
    if any(start + n_proteins != end for start, n_proteins, end in ends):
        others = "; ".join(f"{n_proteins} proteins from token {start} to {end}" for start, n_proteins, end in ends)
        msg = (
            f"The files in {str(directory)!r} do not belong together: the model has {table.shape[0]} tokens, "
            f"{CHROMOSOMES!r} {len(codes)} chromosomes, and the species have {others}. Download all files of one version "
            f"from {_PAGE}."
        )
        raise ValueError(msg)
    segments = [[0, _N_SPECIAL], [first, len(genes)], [first_chromosome, len(codes)]]
    rows = torch.cat([table[start : start + length] for start, length in segments])
    return _species(name, genes, places=places, codes=codes, rows=rows, segments=segments, vocab_size=table.shape[0])


def _ends(
    directory: Path, n_proteins: dict[int, int], offsets: dict[str, int], first_chromosome: int
) -> list[tuple[int, int, int]]:
    """Return first token, number of proteins, and where the next begin, of the given species and of the last one."""
    starts = sorted(map(int, offsets.values()))
    next_start = dict(zip(starts, [*starts[1:], first_chromosome], strict=True))
    last = max(offsets, key=lambda species: int(offsets[species]))
    path = _find_proteins(directory, last)
    if path is not None and starts[-1] not in n_proteins:
        n_proteins = {**n_proteins, starts[-1]: len(_read_proteins(path))}
    return [(start, number, next_start[start]) for start, number in n_proteins.items()]


def _read_new(directory: Path, name: str, table: Tensor, new: NewSpecies, *, known: Iterable[str]) -> Species:
    proteins = _read_proteins(_new_protein_file(directory, name, new, known=known))
    path = Path(new.chromosomes).expanduser() if new.chromosomes else directory / CHROMOSOMES
    places = _read_places(path)
    places = places[places["species"] == name]
    codes = _codes(places)
    genes = _in_capitals(proteins)
    n_tokens = _N_SPECIAL + len(proteins) + len(codes)
    if not codes:
        msg = (
            f"{str(path)!r} has no genes of {name!r}. Pass chromosomes= to `sfm.load` with a file that has the columns "
            "'gene_symbol', 'chromosome', 'start' and 'species'."
        )
        raise ValueError(msg)
    rows = _new_table(table, proteins, len(codes), new)
    if rows.shape != (n_tokens, table.shape[1]):
        msg = (
            f"The table of tokens for {name!r} has shape {tuple(rows.shape)}, but {_N_SPECIAL} special tokens, "
            f"{len(proteins)} proteins and {len(codes)} chromosomes of a model of width {table.shape[1]} make "
            f"{(n_tokens, table.shape[1])}. Pass files that were made together."
        )
        raise ValueError(msg)
    return _species(name, genes, places=places, codes=codes, rows=rows, segments=[[0, n_tokens]], vocab_size=n_tokens)


def _new_table(table: Tensor, proteins: dict[str, Tensor], n_chromosomes: int, new: NewSpecies) -> Tensor:
    if new.token_file is not None:
        path = Path(new.token_file).expanduser()
        rows: Tensor = read_torch_archive(path, what="a token table of UCE")
        return rows
    if new.taxonomy_id is None:
        msg = (
            "The chromosomes of a new species need vectors. Pass token_file= to `sfm.load` with the token table that "
            "was made for it, or taxonomy_id= with the number from which random ones are drawn, as UCE does."
        )
        raise ValueError(msg)
    drawn = torch.normal(
        0.0, 1.0, (n_chromosomes, table.shape[1]), generator=torch.Generator().manual_seed(new.taxonomy_id)
    )
    vectors = torch.stack(list(proteins.values()))
    if vectors.shape[1] != table.shape[1]:  # the caller says what is wrong
        return vectors
    return torch.cat([table[:_N_SPECIAL], vectors, drawn])


def _species(
    name: str,
    genes: list[str],
    *,
    places: pd.DataFrame,
    codes: dict[str, int],
    rows: Tensor,
    segments: list[list[int]],
    vocab_size: int,
) -> Species:
    own = places[places["species"] == name].drop_duplicates("gene_symbol").set_index("gene_symbol")
    kept = [i for i, gene in enumerate(genes) if gene in own.index]
    first = segments[1][0] if len(segments) > 1 else _N_SPECIAL
    first_chromosome = vocab_size - len(codes)
    found = own.loc[[genes[i] for i in kept]]
    if not kept:
        msg = f"No gene of {name!r} has both a protein embedding and a place on a chromosome. Check the files."
        raise ValueError(msg)
    tokens = found["key"].map(codes).to_numpy() + first_chromosome
    return Species(
        name=name,
        genes=[genes[i] for i in kept],
        token_ids=first + np.array(kept),
        chromosomes=tokens,
        starts=found["start"].to_numpy(dtype=np.int64),
        chromosome_names=dict(sorted(zip(tokens.tolist(), found["chromosome"].tolist(), strict=True))),
        table=rows,
        segments=segments,
        first_chromosome=first_chromosome,
        vocab_size=vocab_size,
    )


def _in_capitals(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name.upper() for name in names))


def _codes(places: pd.DataFrame) -> dict[str, int]:
    return {key: code for code, key in enumerate(sorted(places["key"].unique()))}


def _read_places(path: Path) -> pd.DataFrame:
    _require(path, "the table of gene positions of UCE")
    places = pd.read_csv(path, dtype=str, keep_default_na=False)
    missing = [column for column in ("gene_symbol", "chromosome", "start", "species") if column not in places]
    if missing:
        msg = f"{str(path)!r} has no column {missing[0]!r} (columns: {list(places)!r}). Download it again."
        raise ValueError(msg)
    places["gene_symbol"] = places["gene_symbol"].str.upper()
    places["key"] = places["species"] + "_" + places["chromosome"]
    return places


def _read_offsets(directory: Path) -> dict[str, int]:
    path = directory / OFFSETS
    _require(path, "the first token of each species of UCE")
    offsets: dict[str, int] = read_pickle(path, what="the species offsets of UCE")
    return offsets


def _read_proteins(path: Path) -> dict[str, Tensor]:
    proteins = read_torch_archive(path, what="protein embeddings of UCE")
    if not isinstance(proteins, dict) or not proteins:
        msg = f"{str(path)!r} holds a {type(proteins).__name__}, not protein embeddings by gene. Download it again."
        raise ValueError(msg)
    return proteins


def _protein_file(directory: Path, name: str) -> Path:
    found = _find_proteins(directory, name)
    if found is not None:
        return found
    if name not in _ASSEMBLIES:
        msg = f"UCE has no protein embeddings of {name!r}. It has those of {', '.join(map(repr, _ASSEMBLIES))}."
        raise ValueError(msg)
    path = directory / "protein_embeddings" / f"{_ASSEMBLIES[name]}{SUFFIX}"
    _require(path, f"the protein embeddings of {name!r}")
    return path


def _find_proteins(directory: Path, name: str) -> Path | None:
    wanted = f"{_ASSEMBLIES.get(name, name)}{SUFFIX}"
    return next(iter(sorted(directory.glob(f"**/{wanted}"))), None)


def _new_protein_file(directory: Path, name: str, new: NewSpecies, *, known: Iterable[str]) -> Path:
    path = Path(new.proteins).expanduser() if new.proteins else None
    if path is None and (directory / NEW_SPECIES).is_file():
        listed: Any = pd.read_csv(directory / NEW_SPECIES, dtype=str)
        paths = dict(zip(listed["species"], listed["path"], strict=True))
        path = directory / paths[name] if name in paths else None
    if path is None and name in known:
        path = _protein_file(directory, name)
    if path is None:
        msg = (
            f"UCE does not know species={name!r}, only {', '.join(map(repr, sorted(known)))}. For a new species list its "
            f"protein embeddings in {NEW_SPECIES!r} (columns 'species' and 'path'), or pass proteins= to `sfm.load`."
        )
        raise ValueError(msg)
    _require(path, f"the protein embeddings of {name!r}")
    return path


def _require(path: Path, what: str) -> None:
    if not path.is_file():
        msg = f"Did not find {path.name!r} in {str(path.parent)!r}, which is {what}. Download it from {_PAGE} as well."
        raise FileNotFoundError(msg)
