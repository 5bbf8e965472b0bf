"""TranscriptFormer (Pearce et al. 2025, bioRxiv 2025.04.25.650731).

A directory holds `config.json`, `model_weights.pt`, and in the folder `vocabs` one table of proteins per species, whose
keys are the genes, and one list of names per annotation, such as `assay_vocab.json`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfm.checkpoints._family import Family
from sfm.checkpoints._layout import NeededFile
from sfm.checkpoints._names import rename
from sfm.checkpoints._pretrained import PretrainedCells, read_json
from sfm.checkpoints._torch_archive import read_torch_archive
from sfm.checkpoints._transcriptformer_genes import (
    all_genes,
    new_species,
    new_species_as_published,
    only_species,
    vocabulary_of,
)
from sfm.checkpoints._weights import load_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from sfm.checkpoints._names import Names
    from sfm.checkpoints._transcriptformer_genes import GeneRows
    from sfm.nn import CellConfig

_CONFIG = "config.json"
_WEIGHTS = "model_weights.pt"
_TABLE = "gene_embeddings.embedding.weight"
_COUNT_BIAS = "mu.gene_embedding.weight"
_GENE_HEAD = ("gene_id_head.layers.4.weight", "gene_id_head.layers.4.bias")
# Of the settings that a checkpoint leaves open, what the authors fill in to embed.
_CLIP_COUNTS = 30
_LAYER = "transformer_encoder.encoder_layers.{}."
_NAMES: Names = {
    _TABLE: "embedder.genes.weight",
    "gene_embeddings.mlp.layers.{}": "embedder.project.{}",
    "aux_embeddings": "embedder.context.weight",
    f"{_LAYER}self_attn.linears.0.{{}}": "backbone.layers.{}.attention.query.{}",
    f"{_LAYER}self_attn.linears.1.{{}}": "backbone.layers.{}.attention.key.{}",
    f"{_LAYER}self_attn.linears.2.{{}}": "backbone.layers.{}.attention.value.{}",
    f"{_LAYER}self_attn.linears.3.{{}}": "backbone.layers.{}.attention.output.{}",
    f"{_LAYER}linear1.{{}}": "backbone.layers.{}.up.{}",
    f"{_LAYER}linear2.{{}}": "backbone.layers.{}.down.{}",
    f"{_LAYER}norm1.{{}}": "backbone.layers.{}.attention_norm.{}",
    f"{_LAYER}norm2.{{}}": "backbone.layers.{}.feedforward_norm.{}",
    _COUNT_BIAS: "readout.counts.gene_bias.weight",
    "mu.mlp.layers.{}": "readout.counts.project.{}",
    "gene_id_head.layers.{}": "head.project.{}",
}


@dataclass(frozen=True)
class _Settings:
    """What `config.json` says."""

    network: Mapping[str, Any]
    data: Mapping[str, Any]
    loss: Mapping[str, Any]

    @classmethod
    def read(cls, directory: Path) -> _Settings:
        model = read_json(directory / _CONFIG)["model"]
        return cls(model["model_config"], model["data_config"], model.get("loss_config") or {})

    @property
    def columns(self) -> list[str]:
        """Columns of `obs` that become tokens."""
        columns = self.data.get("aux_cols") or []
        return [name.strip() for name in columns.split(",")] if isinstance(columns, str) else list(columns)

    @property
    def seq_len(self) -> int:
        """Most genes of a cell."""
        return int(self.network["seq_len"])


def recognise(directory: Path) -> bool:
    """Whether `config.json` describes a model of this family; if weights are missing, reading says so."""
    if not (directory / _CONFIG).is_file():
        return False
    model = read_json(directory / _CONFIG).get("model")
    return isinstance(model, dict) and {"model_config", "data_config"} <= model.keys()


def read(
    directory: Path,
    *,
    name: str,
    revision: str | None,
    trust_pickle: bool,
    species: str | None = None,
    species_embeddings: str | Path | None = None,
    kind: str = "transcriptformer",
    gene_head: bool = False,
    reference: bool = False,
) -> PretrainedCells:
    """Read a model of one or several species, or fit it to a species that it was not trained on.

    Parameters
    ----------
    directory
        Where the files are.
    name, revision, trust_pickle
        As in :func:`sfm.load`.
    species
        Of a model of several species, keep the genes of this one alone.
    species_embeddings
        Table of proteins of another species, whose genes take the place of all of the model's.
    kind
        `"transcriptformer"`, or `"esm2ce"` for the mean of protein embeddings, the baseline of the paper.
    gene_head
        Read what predicts the next gene as well, which no vector of a cell needs.
    reference
        Keep genes in the order of the data, the first ones of cells with more than fit, and number special tokens of
        another species as the authors do.
    """
    from sfm import nn
    from sfm.tokenizers.published._transcriptformer import TranscriptformerTokenizer

    if kind == "esm2ce" and gene_head:
        msg = "kind='esm2ce' is a mean of proteins and predicts no genes. Leave out gene_head=True."
        raise ValueError(msg)
    if kind not in ("transcriptformer", "esm2ce"):
        msg = f"Unknown kind={kind!r} of a model of TranscriptFormer. Choose 'transcriptformer' or 'esm2ce'."
        raise ValueError(msg)
    settings = _Settings.read(directory)
    weights: dict[str, Tensor] = read_torch_archive(
        directory / _WEIGHTS, what="the weights of TranscriptFormer", trust_pickle=trust_pickle
    )
    genes = all_genes(directory, settings.data)
    _refuse_other_size(weights, genes, directory)
    if species_embeddings is not None:
        make = new_species_as_published if reference else new_species
        genes = make(genes, Path(species_embeddings).expanduser(), settings.data["special_tokens"])
    elif species is not None:
        genes = only_species(genes, species)
    contexts = {column: _context_names(directory, column) for column in settings.columns}
    vocabulary = vocabulary_of(genes, contexts)
    config = _make_config(settings, genes, contexts, vocabulary.special_tokens, is_baseline=kind == "esm2ce")
    of_genes = {name: genes.numbers_of(weights[name]) for name in (_COUNT_BIAS, *_GENE_HEAD) if name in weights}
    weights = {**weights, **of_genes, _TABLE: genes.rows_of(weights[_TABLE])}
    renamed = _renamed(weights, settings.columns, is_baseline=kind == "esm2ce", with_head=gene_head)
    model = nn.CellForCausalLM(config) if gene_head else nn.CellModel(config)
    load_weights(model, renamed, source=str(directory / _WEIGHTS))
    columns = [] if kind == "esm2ce" else list(contexts)  # a mean of proteins has no use for them
    tokenizer = TranscriptformerTokenizer(
        vocabulary,
        max_length=settings.seq_len + 1 + len(columns),
        obs_columns=columns,
        clip_counts=settings.data.get("clip_counts") or _CLIP_COUNTS,
        scale=settings.data.get("normalize_to_scale") or 0,
        keep_order=reference,
        fill_id=genes.fill_id,
    )
    return PretrainedCells(model.eval(), tokenizer, name=name, revision=revision)


def _make_config(
    settings: _Settings,
    genes: GeneRows,
    contexts: Mapping[str, list[str]],
    special_tokens: Mapping[str, int],
    *,
    is_baseline: bool,
) -> CellConfig:
    from sfm.nn import CellConfig
    from sfm.nn.architectures._transcriptformer_backbone import TranscriptformerConfig

    network = settings.network
    backbone = TranscriptformerConfig(
        hidden_size=genes.protein_size if is_baseline else network["embed_dim"],
        num_hidden_layers=0 if is_baseline else network["num_layers"],
        num_attention_heads=network["num_heads"],
        intermediate_size=network["model_dim"],
        hidden_act=network.get("activation", "gelu"),
        softcap=network.get("softcap", 10),
        count_epsilon=network.get("log_counts_eps", 1e-6),
        attention_bias=network.get("attn_bias", False),
        feedforward_bias=network.get("fw_bias", False),
        unread_token_ids=[special_tokens[f"{column}=unknown"] for column in contexts],
        hidden_dropout_prob=network.get("dropout", 0.0),
    )
    return CellConfig(
        vocab_size=len(genes.names) + sum(map(len, contexts.values())),
        backbone_config=backbone,
        pooling="published",
        architecture="transcriptformer",
        architecture_settings={
            "seq_len": settings.seq_len,
            "gene_rows": len(genes.names),
            "context_rows": sum(map(len, contexts.values())),
            "protein_size": genes.protein_size,
            "protein_means": is_baseline,
            "count_head": not is_baseline,
            "gene_loss_weight": float(settings.loss.get("gene_id_loss_weight", 1.0)),
            "gene_head_size": network.get("gene_head_hidden_dim") or network["embed_dim"],
            "count_epsilon": backbone.count_epsilon,
            "largest_count": settings.data.get("clip_counts") or _CLIP_COUNTS,
        },
        value_embedding="continuous",
        pad_token_id=special_tokens["<pad>"],
        mask_token_id=special_tokens.get("<mask>"),
        cls_token_id=special_tokens["<cls>"],
        eos_token_id=special_tokens.get("<eos>"),
        special_token_ids=sorted(special_tokens.values()),
    )


def _renamed(
    weights: Mapping[str, Tensor], columns: list[str], *, is_baseline: bool, with_head: bool
) -> dict[str, Tensor]:
    import torch

    if is_baseline:
        return {"embedder.genes.weight": weights[_TABLE]}
    tables = [f"aux_embeddings.{column}.weight" for column in columns]
    others = {key: tensor for key, tensor in weights.items() if key not in tables}
    if all(table in weights for table in tables):
        others["aux_embeddings"] = torch.cat([weights[table] for table in tables])
    renamed = rename(others, _NAMES)
    if with_head:
        return {key if key.startswith("head.") else f"cell.{key}": tensor for key, tensor in renamed.items()}
    return {key: tensor for key, tensor in renamed.items() if not key.startswith("head.")}


def _context_names(directory: Path, column: str) -> list[str]:
    path = directory / "vocabs" / f"{column}_vocab.json"
    if not path.is_file():
        msg = f"Did not find {path.name!r} in {str(path.parent)!r}, which lists the values of {column!r}. Unpack it as well."
        raise FileNotFoundError(msg)
    ids = read_json(path)
    if "unknown" not in ids or sorted(ids.values()) != list(range(len(ids))):
        msg = f"{str(path)!r} does not number its names from 0, 'unknown' among them. Unpack the archive again."
        raise ValueError(msg)
    return sorted(ids, key=ids.__getitem__)


def _refuse_other_size(weights: Mapping[str, Tensor], genes: GeneRows, directory: Path) -> None:
    if _TABLE not in weights or _COUNT_BIAS not in weights:
        msg = f"{str(directory / _WEIGHTS)!r} has no {_TABLE!r} or no {_COUNT_BIAS!r}: it is not of TranscriptFormer."
        raise ValueError(msg)
    n_rows = weights[_TABLE].shape[0]
    if n_rows != len(genes.names):
        msg = (
            f"{str(directory / _WEIGHTS)!r} has rows for {n_rows} genes and special tokens, but the tables in "
            f"{str(directory / 'vocabs')!r} have {len(genes.names)}. They belong to different models."
        )
        raise ValueError(msg)


TRANSCRIPTFORMER = Family(
    name="transcriptformer",
    title="TranscriptFormer",
    recognise=recognise,
    read=read,
    patterns=(_CONFIG, _WEIGHTS, "vocabs/*.json", "vocabs/*.h5"),
    options={
        "species": "of a model of several species, the one whose genes to keep, such as 'mus_musculus'",
        "species_embeddings": "path of the table of proteins (.h5) of a species that the model was not trained on",
        "kind": "'esm2ce' for the mean of protein embeddings instead of the transformer",
        "gene_head": "True reads what predicts the next gene as well",
        "reference": "True keeps the order of genes in the data, and the numbering of special tokens for new species",
    },
    layouts=(
        (
            NeededFile((_CONFIG,), "its settings", decides=True),
            NeededFile((_WEIGHTS,), "the weights"),
            NeededFile(("vocabs/*.h5",), "the vectors of proteins"),
        ),
    ),
)
