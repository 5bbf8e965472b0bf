"""The genes of a model of TranscriptFormer, and what becomes of them for one species or another one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from sfm.genes import GeneVocabulary

_PAD, _START, _END, _MASK = "[PAD]", "[START]", "[END]", "[MASK]"
# How the authors number the special tokens for another species; their model goes on with the old numbers of two.
_NEW_ORDER = ("unknown", _START, _END, "[RD]", "[CELL]", _PAD, _MASK)
_COMMON_NAMES = {"homo_sapiens": "human", "mus_musculus": "mouse"}


@dataclass(frozen=True)
class GeneRows:
    """Names of the rows of the gene table, special tokens first, and where their weights are."""

    names: list[str]
    special: dict[str, int]
    """Token ids by name, as :class:`sfm.GeneVocabulary` calls them."""
    rows: np.ndarray
    """Rows of the checkpoint that are kept, shape `(n_rows,)`, before `proteins`."""
    species: dict[str, str]
    """Species of each gene."""
    protein_size: int
    proteins: np.ndarray | None = None
    """Further rows, float32 of shape `(n_genes, protein_size)`."""
    fill_id: int | None = None

    def rows_of(self, table: Tensor) -> Tensor:
        """Return the gene table."""
        import torch

        kept = self._kept(table)
        return kept if self.proteins is None else torch.cat([kept.float(), torch.from_numpy(self.proteins)])

    def numbers_of(self, weight: Tensor) -> Tensor:
        """Return a trained number, or vector, per gene; zeros for genes that the model was not trained on."""
        import torch

        kept = self._kept(weight)
        return kept if self.proteins is None else torch.cat([kept, kept.new_zeros(len(self.proteins), *kept.shape[1:])])

    def _kept(self, weight: Tensor) -> Tensor:
        import torch

        if np.array_equal(self.rows, np.arange(len(weight))):  # tables of many species fill gigabytes
            return weight
        return weight[torch.from_numpy(self.rows)]


def all_genes(directory: Path, settings: Mapping[str, Any]) -> GeneRows:
    """Return the genes that the files in `vocabs` list: in the order of the files, each gene once."""
    species: dict[str, str] = {}
    size = 0
    for file in settings["esm2_mappings"]:
        path = directory / "vocabs" / file
        genes, size = _read_genes(path)
        for gene in genes:
            species.setdefault(gene, _species_of(path))
    special = list(settings["special_tokens"])
    names = [*special, *species]
    ids = {name: i for i, name in enumerate(special)}
    named = {_PAD: "<pad>", _START: "<cls>", _END: "<eos>", _MASK: "<mask>"}
    return GeneRows(
        names, {named.get(name, name): i for name, i in ids.items()}, np.arange(len(names)), species, protein_size=size
    )


def only_species(genes: GeneRows, species: str) -> GeneRows:
    """Return the genes of one species."""
    known = sorted(set(genes.species.values()))
    wanted = {common: latin for latin, common in _COMMON_NAMES.items()}.get(species, species)
    if wanted not in known:
        msg = f"species={species!r}, but this model knows {', '.join(map(repr, known))}. Pass one of them, or species_embeddings=."
        raise ValueError(msg)
    n_special = len(genes.special)
    is_kept = [i < n_special or genes.species[name] == wanted for i, name in enumerate(genes.names)]
    names = [name for name, kept in zip(genes.names, is_kept, strict=True) if kept]
    return replace(genes, names=names, rows=np.flatnonzero(is_kept), species=dict.fromkeys(names[n_special:], wanted))


def new_species(genes: GeneRows, path: Path, special_tokens: Sequence[str]) -> GeneRows:
    """Return the genes of a table of another species, after the special tokens as they are."""
    names, proteins = _read_proteins(path, genes.protein_size)
    return replace(
        genes,
        names=[*special_tokens, *names],
        rows=np.arange(len(special_tokens)),
        species=dict.fromkeys(names, _species_of(path)),
        proteins=proteins,
    )


def new_species_as_published(genes: GeneRows, path: Path, special_tokens: Sequence[str]) -> GeneRows:
    """Do the same with special tokens numbered anew, while the model still hides number 1 and starts with number 2."""
    old = list(special_tokens)
    new = new_species(genes, path, old)
    special = dict(zip(_NEW_ORDER, range(len(_NEW_ORDER)), strict=True))
    special = {{_START: "<pad>", _END: "<cls>", _MASK: "<mask>"}.get(name, name): i for name, i in special.items()}
    return replace(
        new,
        names=[*_NEW_ORDER, *new.species],
        special=special,
        rows=np.array([old.index(name) for name in _NEW_ORDER]),
        fill_id=_NEW_ORDER.index(_PAD),
    )


def vocabulary_of(genes: GeneRows, contexts: Mapping[str, Sequence[str]]) -> GeneVocabulary:
    """Make the vocabulary: special tokens, genes, and after them the values of annotations."""
    from sfm.genes import GeneVocabulary

    special = dict(genes.special)
    end = len(genes.names)
    for column, names in contexts.items():
        special |= {f"{column}={name}": end + i for i, name in enumerate(names)}
        end += len(names)
    species = set(genes.species.values())
    latin = species.pop() if len(species) == 1 else None
    n_special = len(genes.special)
    return GeneVocabulary(
        genes.names[n_special:],
        token_ids=np.arange(n_special, len(genes.names)),
        special_tokens=special,
        species=None if latin is None else _COMMON_NAMES.get(latin, latin),
    )


def _species_of(path: Path) -> str:
    return path.name.removesuffix(".h5").removesuffix("_gene")


def _open(path: Path) -> Any:
    import h5py

    if not path.is_file():
        msg = f"Did not find {path.name!r} in {str(path.parent)!r}, which lists the genes of a species. Unpack or download it."
        raise FileNotFoundError(msg)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        msg = f"{str(path)!r} cannot be read as HDF5 ({error}). It may be truncated: download it again."
        raise ValueError(msg) from error
    if "keys" not in file or "arrays" not in file:
        msg = f"{str(path)!r} has no 'keys' and 'arrays' (found {sorted(file)!r}): it is no table of proteins."
        file.close()
        raise ValueError(msg)
    return file


def _read_genes(path: Path) -> tuple[list[str], int]:
    """Return the genes of a table, and the size of their embeddings."""
    with _open(path) as file:
        genes = [key.decode() for key in file["keys"][:]]
        return genes, int(file["arrays"][genes[0]].shape[0])


def _read_proteins(path: Path, size: int) -> tuple[list[str], np.ndarray]:
    with _open(path) as file:
        genes = list(dict.fromkeys(key.decode() for key in file["keys"][:]))
        found = int(file["arrays"][genes[0]].shape[0])
        if found != size:
            msg = f"{str(path)!r} has embeddings of {found} dims, the model reads {size}. Use those of the same protein model."
            raise ValueError(msg)
        return genes, np.stack([file["arrays"][gene][:] for gene in genes]).astype(np.float32)
