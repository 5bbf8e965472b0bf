"""Nicheformer (Tejada-Lapuerta et al. 2025, Nature Methods; bioRxiv 2024.04.15.589472).

A directory holds the checkpoint of Lightning, `nicheformer.ckpt`, with the list of genes, `model.h5ad`; or in the layout
of the Hugging Face hub `config.json`, `model.safetensors` and `vocab.json`. Means of technologies, such as
`dissociated_mean_script.npy`, are looked for beside them and in a folder `model_means`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sfm.checkpoints._family import Family
from sfm.checkpoints._layout import NeededFile
from sfm.checkpoints._names import rename
from sfm.checkpoints._nicheformer_files import (
    FIRST_GENE,
    FOLDERS,
    GENES,
    MEAN,
    VOCABULARY,
    follow_rule,
    read_genes,
    read_means,
)
from sfm.checkpoints._pretrained import PretrainedCells, read_json
from sfm.checkpoints._torch_archive import read_torch_archive
from sfm.checkpoints._weights import load_weights, read_safetensors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from sfm.checkpoints._names import Names
    from sfm.checkpoints._nicheformer_files import MeanRule
    from sfm.genes import GeneVocabulary
    from sfm.nn import CellConfig
    from sfm.tokenizers import Tokenizer

_CHECKPOINT = "nicheformer.ckpt"
_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
# Packages whose objects a checkpoint of Lightning may hold, none of which is needed.
_INERT = ("lightning", "nicheformer", "omegaconf", "pytorch_lightning")
# Rows of the table of tokens that nothing uses.
_UNUSED_ROWS = 5

_LAYER = "encoder.layers.{}."
_NAMES: Names = {
    "embeddings.weight": "cell.embedder.genes.weight",
    "positional_embedding.weight": "cell.backbone.position_embeddings.weight",
    f"{_LAYER}self_attn.in_proj_{{}}": "cell.backbone.layers.{}.attention.qkv.{}",
    f"{_LAYER}self_attn.out_proj.{{}}": "cell.backbone.layers.{}.attention.output.{}",
    f"{_LAYER}linear1.{{}}": "cell.backbone.layers.{}.up.{}",
    f"{_LAYER}linear2.{{}}": "cell.backbone.layers.{}.down.{}",
    f"{_LAYER}norm1.{{}}": "cell.backbone.layers.{}.attention_norm.{}",
    f"{_LAYER}norm2.{{}}": "cell.backbone.layers.{}.feedforward_norm.{}",
    "classifier_head.{}": "head.decoder.{}",
    # A template of a layer, numbers of positions, and heads of other tasks.
    "encoder_layer.{}": None,
    "pos": None,
    "pooler_head.{}": None,
    "cls_head.{}": None,
}


def recognise(directory: Path) -> bool:
    """Whether this is one of the two layouts; if a companion file is missing, reading says so."""
    if (directory / _CHECKPOINT).is_file():
        return True
    return (directory / _CONFIG).is_file() and read_json(directory / _CONFIG).get("model_type") == "nicheformer"


def read(  # noqa: PLR0913
    directory: Path,
    *,
    name: str,
    revision: str | None,
    trust_pickle: bool,
    technology_mean: str | Path | None = "auto",
    mean_rule: MeanRule = "rounded",
    specie: str | int | None = None,
    assay: str | int | None = None,
    modality: str | int | None = None,
    hidden_layer: int = -1,
    with_context: bool = False,
    pad_token: int | None = None,
    reference: bool = False,
) -> PretrainedCells:
    """Read the model in either layout.

    Parameters
    ----------
    directory
        Where the files are.
    name, revision, trust_pickle
        As in :func:`sfm.load`.
    technology_mean
        File of the means that counts are divided by, or its first word, such as `"merfish"`, if it is with the model.
        `"auto"` takes the only one that is there; `None` divides by nothing.
    mean_rule
        `"rounded"` rounds means as in training, 1 where one is missing or rounds to zero; `"clean"` does not round;
        `"nan"`, with `reference=True` alone, leaves missing ones missing, as the authors' example does.
    specie, assay, modality
        Value of all cells where `obs` has no column of this name.
    hidden_layer
        Hidden state that cells are embedded with: -1 for the last, 1 for that after the first layer.
    with_context
        Whether the mean over tokens includes species, technology and modality.
    pad_token
        With `reference=True`, token that fills cells up. Default: what `vocab.json` says, else 1, as in training.
    reference
        Fill cells up to the context length and take the mean over padding as well, order equal genes and match gene
        ids as the authors do.
    """
    from sfm import nn

    weights, settings = _read_weights(directory, trust_pickle=trust_pickle)
    genes, found_pad = read_genes(directory)
    n_tokens = int(settings["n_tokens"])
    _refuse_other_size(directory, weights, n_tokens, len(genes))
    means = read_means(directory, technology_mean, len(genes))
    given = {"specie": specie, "assay": assay, "modality": modality}
    context = {column: value for column, value in given.items() if value is not None}
    fill_id = pad_token if pad_token is not None else found_pad
    if not reference and (mean_rule == "nan" or pad_token is not None):
        which = "mean_rule='nan'" if mean_rule == "nan" else f"pad_token={pad_token!r}"
        msg = f"{which} is how the reference implementation works. Pass reference=True as well, or leave it out."
        raise ValueError(msg)
    rounded = None if means is None else follow_rule(means, mean_rule)
    vocabulary = _make_vocabulary(genes, rounded, pad_id=fill_id if reference else 1, reference=reference)
    tokenizer = _make_tokenizer(
        vocabulary, int(settings["context_length"]), context, rounded, fill_id=fill_id, reference=reference
    )
    config = _make_config(
        settings, vocabulary, hidden_layer=hidden_layer, with_context=with_context, reference=reference
    )
    model = nn.CellForMaskedLM(config)
    load_weights(model, weights, source=str(directory))
    return PretrainedCells(model.eval(), tokenizer, name=name, revision=revision)


def _make_vocabulary(genes: list[str], means: np.ndarray | None, *, pad_id: int, reference: bool) -> GeneVocabulary:
    from sfm.genes import GeneVocabulary
    from sfm.tokenizers.published._nicheformer import CONTEXT

    special = {"<mask>": 1 - pad_id, "<pad>": pad_id, "[CLS]": 2}
    for column, names in CONTEXT.items():
        for token in sorted(set(names.values())):
            first = next(name for name, value in names.items() if value == token)
            special[f"{column}={first}"] = token
    return GeneVocabulary(
        genes,
        token_ids=np.arange(FIRST_GENE, FIRST_GENE + len(genes)),
        special_tokens=special,
        # A few published means are negative, which no mean of counts can be.
        medians=None if means is None or reference else np.where(means > 0, means, 1.0),
        matching="exact" if reference else "all",
        species="human",
    )


def _make_tokenizer(
    vocabulary: GeneVocabulary,
    max_length: int,
    context: Mapping[str, str | int],
    means: np.ndarray | None,
    *,
    fill_id: int,
    reference: bool,
) -> Tokenizer:
    from sfm.tokenizers.published._nicheformer import NicheformerReferenceTokenizer, NicheformerTokenizer

    if not reference:
        return NicheformerTokenizer(vocabulary, max_length=max_length, context=context)
    return NicheformerReferenceTokenizer(
        vocabulary,
        max_length=max_length,
        context=context,
        means=() if means is None else means.tolist(),
        fill_id=fill_id,
    )


def _make_config(
    settings: Mapping[str, Any], vocabulary: GeneVocabulary, *, hidden_layer: int, with_context: bool, reference: bool
) -> CellConfig:
    from sfm.nn import CellConfig
    from sfm.nn.architectures._encoder import EncoderConfig
    from sfm.nn.architectures._nicheformer import NicheformerConfig
    from sfm.tokenizers.published._nicheformer import CONTEXT

    sizes: dict[str, Any] = {
        "hidden_size": settings["dim_model"],
        "num_hidden_layers": settings["nlayers"],
        "num_attention_heads": settings["nheads"],
        "intermediate_size": settings["dim_feedforward"],
        "hidden_act": "relu",
        "layer_norm_eps": 1e-12,
        "positions": "learned",
        "max_position_embeddings": settings["context_length"],
        "hidden_dropout_prob": settings.get("dropout") or 0.0,
    }
    size = int(settings["n_tokens"])
    return CellConfig(
        vocab_size=size,
        backbone_config=NicheformerConfig(unread_token=vocabulary.pad_id or 0, **sizes)
        if reference
        else EncoderConfig(**sizes),
        pooling="published",
        hidden_layer=hidden_layer,
        architecture="nicheformer",
        architecture_settings={"left_out_tokens": 0 if with_context else len(CONTEXT)},
        pad_token_id=vocabulary.pad_id,
        mask_token_id=vocabulary.mask_id,
        cls_token_id=None,
        special_token_ids=np.setdiff1d(np.arange(size), vocabulary.token_ids).tolist(),
    )


def _read_weights(directory: Path, *, trust_pickle: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights by their new names, and the settings."""
    if (directory / _CHECKPOINT).is_file():
        content = read_torch_archive(
            directory / _CHECKPOINT, what="the checkpoint of Nicheformer", inert=_INERT, trust_pickle=trust_pickle
        )
        if not isinstance(content, dict) or not {"state_dict", "hyper_parameters"} <= content.keys():
            msg = f"{str(directory / _CHECKPOINT)!r} has no 'state_dict' or 'hyper_parameters': it is no checkpoint of Nicheformer."
            raise ValueError(msg)
        weights, settings = content["state_dict"], dict(content["hyper_parameters"])
    else:
        if not (directory / _WEIGHTS).is_file():
            msg = f"Did not find {_WEIGHTS!r} in {str(directory)!r}, the weights of Nicheformer. Download it as well."
            raise FileNotFoundError(msg)
        weights, settings = read_safetensors(directory / _WEIGHTS), read_json(directory / _CONFIG)
    return rename(weights, _NAMES, prefix="nicheformer."), settings


def _refuse_other_size(directory: Path, weights: dict[str, Tensor], n_tokens: int, n_genes: int) -> None:
    """Raise unless genes and weights are as many; and leave out the rows of the table that nothing uses."""
    if n_genes + FIRST_GENE != n_tokens:
        msg = (
            f"The model in {str(directory)!r} has {n_tokens - FIRST_GENE} genes, but the list of genes found with it has "
            f"{n_genes}. Take {GENES!r} or {VOCABULARY!r} from where the model is from."
        )
        raise ValueError(msg)
    table = weights.get("cell.embedder.genes.weight")
    if table is not None and table.shape[0] == n_tokens + _UNUSED_ROWS:
        weights["cell.embedder.genes.weight"] = table[:n_tokens]


NICHEFORMER = Family(
    name="nicheformer",
    title="Nicheformer",
    recognise=recognise,
    read=read,
    patterns=(
        _CHECKPOINT,
        _CONFIG,
        _WEIGHTS,
        VOCABULARY,
        *(f"{folder}/{file}".lstrip("/") for folder in FOLDERS for file in (GENES, f"*{MEAN}")),
    ),
    options={
        "technology_mean": "file of the means of the technology, or its first word, such as 'merfish'; None for no means",
        "mean_rule": "'rounded' (default), 'clean' without rounding, or 'nan' with reference=True",
        "specie": "species of all cells, where obs has no column 'specie'",
        "assay": "technology of all cells, where obs has no column 'assay'",
        "modality": "'dissociated' or 'spatial' for all cells, where obs has no column 'modality'",
        "hidden_layer": "hidden state that cells are embedded with, -1 (default) for the last",
        "with_context": "True takes the mean over the three tokens of context as well",
        "pad_token": "with reference=True, token of padding: 1 as in training, or 0",
        "reference": "True takes the mean over padding as well, and orders equal genes as the authors do",
    },
    layouts=(
        (
            NeededFile((_CONFIG,), "its settings", decides=True),
            NeededFile((_WEIGHTS,), "the weights"),
            NeededFile((VOCABULARY,), "the tokens of genes"),
        ),
        (
            NeededFile((_CHECKPOINT,), "the checkpoint", decides=True),
            NeededFile(tuple(f"{folder}/{GENES}".lstrip("/") for folder in FOLDERS), "the order of genes"),
        ),
    ),
)
