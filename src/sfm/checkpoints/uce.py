"""UCE, Universal Cell Embeddings (Rosen et al. 2023, bioRxiv 2023.11.28.568918).

A directory holds the weights of the model of 4 layers, of that of 33, or of both, and what they share: the protein
embeddings and the positions of the genes of each species, and the first token of each species.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sfm.checkpoints._family import Family
from sfm.checkpoints._layout import NeededFile
from sfm.checkpoints._names import rename
from sfm.checkpoints._pretrained import PretrainedCells
from sfm.checkpoints._torch_archive import read_torch_archive
from sfm.checkpoints._uce_species import CHROMOSOMES, NEW_SPECIES, OFFSETS, SUFFIX, NewSpecies, read_species
from sfm.checkpoints._weights import load_weights

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from sfm.checkpoints._names import Names
    from sfm.checkpoints._uce_species import Species
    from sfm.genes import GeneVocabulary
    from sfm.nn import CellConfig

_TABLE = "pe_embedding.weight"
_LAYER = "transformer_encoder.layers.{}"
_NAMES: Names = {
    _TABLE: None,  # read row by row
    "pos_encoder.pe": None,  # sines and cosines, computed
    "encoder.0.{}": "embedder.project.{}",
    "encoder.2.{}": "embedder.norm.{}",
    f"{_LAYER}.self_attn.in_proj_{{}}": "backbone.layers.{}.attention.qkv.{}",
    f"{_LAYER}.self_attn.out_proj.{{}}": "backbone.layers.{}.attention.output.{}",
    f"{_LAYER}.linear1.{{}}": "backbone.layers.{}.up.{}",
    f"{_LAYER}.linear2.{{}}": "backbone.layers.{}.down.{}",
    f"{_LAYER}.norm1.{{}}": "backbone.layers.{}.attention_norm.{}",
    f"{_LAYER}.norm2.{{}}": "backbone.layers.{}.feedforward_norm.{}",
    "decoder.{}": "readout.decoder.{}",
    # What predicted in pretraining whether a gene is expressed.
    "binary_decoder.{}": None,
    "gene_embedding_layer.{}": None,
}
# Of the authors' program, where no file has them.
_N_HEADS = 20
_DROPOUT = 0.05
_REFERENCE_BATCH_SIZE = 25


def recognise(directory: Path) -> bool:
    """Whether there are weights with the ending that the authors gave them, of a model and not of a token table."""
    return bool(_model_files(directory))


def read(  # noqa: PLR0913
    directory: Path,
    *,
    name: str,
    revision: str | None,
    trust_pickle: bool,
    species: str = "human",
    weights: str | None = None,
    n_heads: int = _N_HEADS,
    sample_size: int = 1024,
    max_length: int | None = None,
    batch_size: int = _REFERENCE_BATCH_SIZE,
    seed: int = 0,
    reference: bool = False,
    **new_species: Any,
) -> PretrainedCells:
    """Read a model for the cells of one species.

    Parameters
    ----------
    directory
        Where the files are.
    name, revision, trust_pickle
        As in :func:`sfm.load`.
    species
        Whose genes are read.
    weights
        Which file of weights, if there are several.
    n_heads
        Attention heads, which no file tells.
    sample_size
        Genes that are drawn for a cell.
    max_length
        Most tokens of a cell. Default: as many as the file has positions.
    batch_size, seed
        Cells that are run together, and the seed of the random numbers, with `reference`.
    reference
        Draw genes from one stream, and let padding be attended to, as the authors do.
    new_species
        Files of a species that the model was not trained with, see :class:`NewSpecies`.
    """
    from sfm.nn import CellModel

    tensors = _read_weights(_weights_file(directory, weights), trust_pickle=trust_pickle)
    genes = read_species(directory, species, tensors[_TABLE], NewSpecies(**new_species))
    vocabulary = make_vocabulary(genes, reference=reference)
    n_positions = tensors["pos_encoder.pe"].shape[0]
    config = make_config(tensors, genes, n_heads=n_heads, n_positions=n_positions)
    if reference:
        config.backbone_config.padding_bias = 1.0
        config.architecture_settings["cells_together"] = int(batch_size)
    model = CellModel(config)
    renamed = rename(tensors, _NAMES) | {"embedder.genes.weight": genes.table}
    load_weights(model, renamed, source=str(directory))
    tokenizer = _make_tokenizer(genes, vocabulary, max_length or n_positions, sample_size, seed, reference=reference)
    return PretrainedCells(model.eval(), tokenizer, name=name, revision=revision)


def _make_tokenizer(
    species: Species, vocabulary: GeneVocabulary, max_length: int, sample_size: int, seed: int, *, reference: bool
) -> Any:
    from sfm.tokenizers.published._uce import UCETokenizer

    return UCETokenizer(
        vocabulary,
        max_length=max_length,
        sample_size=sample_size,
        chromosomes=species.chromosomes.tolist(),
        starts=species.starts.tolist(),
        reference=reference,
        seed=seed,
    )


def make_config(tensors: dict[str, Tensor], species: Species, *, n_heads: int, n_positions: int) -> CellConfig:
    """Make the configuration of the model whose weights these are."""
    from sfm.nn import CellConfig
    from sfm.nn.architectures._encoder import EncoderConfig

    hidden_size, width = tensors["encoder.0.weight"].shape
    if hidden_size % n_heads:
        msg = f"n_heads={n_heads!r} does not divide the width of this model, {hidden_size}. Pass how many heads it has."
        raise ValueError(msg)
    layers = {match[1] for key in tensors if (match := re.match(r"transformer_encoder\.layers\.(\d+)\.", key))}
    decoder = [tensors[f"decoder.{i}.0.weight"].shape[0] for i in range(3)] + [tensors["decoder.3.weight"].shape[0]]
    backbone = EncoderConfig(
        hidden_size=hidden_size,
        num_hidden_layers=len(layers),
        num_attention_heads=n_heads,
        intermediate_size=tensors["transformer_encoder.layers.0.linear1.weight"].shape[0],
        positions="sinusoidal",
        max_position_embeddings=n_positions,
        hidden_dropout_prob=_DROPOUT,
    )
    return CellConfig(
        vocab_size=species.vocab_size,
        backbone_config=backbone,
        architecture="uce",
        architecture_settings={
            "table_width": width,
            "table_segments": species.segments,
            "decoder_sizes": decoder,
        },
        pooling="published",
        pad_token_id=0,
        mask_token_id=None,
        cls_token_id=3,
        special_token_ids=[0, 1, 2, 3, *range(species.first_chromosome, species.vocab_size)],
    )


def make_vocabulary(species: Species, *, reference: bool) -> GeneVocabulary:
    """Make the vocabulary of the genes of a species; its chromosomes are special tokens."""
    from sfm.genes import GeneVocabulary, gene_tables

    tables = gene_tables().of(species.name)
    written = {} if tables is None else {symbol.upper(): symbol for symbol in tables.ids}
    forms = (str.lower,) if species.name == "human" else (str.lower, str.capitalize)
    aliases = {form(gene): gene for form in forms for gene in species.genes if form(gene) != gene}
    chromosomes = {f"<chromosome {name}>": token for token, name in species.chromosome_names.items()}
    return GeneVocabulary(
        species.genes,
        symbols=[written.get(gene, gene) for gene in species.genes],
        token_ids=species.token_ids,
        special_tokens={"<pad>": 0, "<left>": 1, "<right>": 2, "<cls>": 3, **chromosomes},
        aliases={} if reference else aliases,
        matching="any_case" if reference else "all",
        species=species.name,
    )


def _model_files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*.torch") if not path.name.startswith("all_tokens"))


def _weights_file(directory: Path, wanted: str | None) -> Path:
    found = _model_files(directory)
    if wanted is not None:
        return directory / wanted
    if len(found) > 1:
        names = ", ".join(repr(path.name) for path in found)
        msg = f"{str(directory)!r} has several models of UCE: {names}. Pass weights= to `sfm.load` with one of them."
        raise ValueError(msg)
    return found[0]


def _read_weights(path: Path, *, trust_pickle: bool) -> dict[str, Tensor]:
    tensors = read_torch_archive(path, what="the weights of UCE", trust_pickle=trust_pickle)
    needed = (_TABLE, "pos_encoder.pe", "encoder.0.weight", "decoder.3.weight")
    missing = [key for key in needed if not isinstance(tensors, dict) or key not in tensors]
    if missing:
        msg = f"{str(path)!r} does not hold the weights of UCE: it has no {missing[0]!r}. Download it again."
        raise ValueError(msg)
    return dict(tensors)


UCE = Family(
    name="uce",
    title="UCE",
    recognise=recognise,
    read=read,
    patterns=("*.torch", CHROMOSOMES, OFFSETS, NEW_SPECIES, f"*{SUFFIX}"),
    options={
        "species": "whose genes are read, 'human' by default",
        "weights": "name of the file of weights, if there are several",
        "n_heads": "attention heads, 20 by default",
        "sample_size": "genes that are drawn for a cell, 1024 by default",
        "max_length": "most tokens of a cell, 1536 by default",
        "reference": "True draws from one stream and lets padding be attended to, as the authors do",
        "seed": "seed of that stream, 0 by default",
        "batch_size": "cells that are run together in reference mode, 25 by default",
        "proteins": "file of the protein embeddings of a new species",
        "chromosomes": "table of the gene positions of a new species",
        "token_file": "token table that was made for a new species",
        "taxonomy_id": "seed of the chromosome vectors of a new species, without token_file=",
    },
    layouts=(
        (
            NeededFile(("*.torch",), "the weights", besides="all_tokens*"),
            NeededFile((CHROMOSOMES,), "the positions of genes"),
            NeededFile((OFFSETS,), "where species begin"),
        ),
    ),
)
