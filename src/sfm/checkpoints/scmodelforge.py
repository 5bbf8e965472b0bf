"""Model directories of scModelForge (`save_pretrained`, `scmodelforge export`).

A directory holds `config.json`, `model.safetensors` or `model.pt`, and `gene_vocab.json`. Of its models the transformer
encoder with standard attention over ranked genes is read.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sfm.checkpoints._family import Family
from sfm.checkpoints._layout import NeededFile
from sfm.checkpoints._names import rename
from sfm.checkpoints._pretrained import PretrainedCells, read_json
from sfm.checkpoints._torch_files import read_torch_file
from sfm.checkpoints._weights import load_weights, read_safetensors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from sfm.checkpoints._names import Names
    from sfm.genes import GeneVocabulary
    from sfm.nn import CellConfig

_WEIGHTS = ("model.safetensors", "model.pt")
_VOCABULARY = "gene_vocab.json"
_SPECIAL = {"<pad>": 0, "<unk>": 1, "<mask>": 2, "<cls>": 3}

_NAMES: Names = {
    "embedding.gene_embedding.{}": "cell.embedder.genes.{}",
    "embedding.position_embedding.{}": "cell.embedder.positions.{}",
    "embedding.expression_proj.{}": "cell.embedder.expression.{}",
    "embedding.layer_norm.{}": "cell.embedder.norm.{}",
    "encoder.layers.{}.self_attn.in_proj_{}": "cell.backbone.layers.{}.attention.qkv.{}",
    "encoder.layers.{}.self_attn.out_proj.{}": "cell.backbone.layers.{}.attention.output.{}",
    "encoder.layers.{}.linear1.{}": "cell.backbone.layers.{}.up.{}",
    "encoder.layers.{}.linear2.{}": "cell.backbone.layers.{}.down.{}",
    "encoder.layers.{}.norm1.{}": "cell.backbone.layers.{}.attention_norm.{}",
    "encoder.layers.{}.norm2.{}": "cell.backbone.layers.{}.feedforward_norm.{}",
    "head.dense.{}": "head.transform.{}",
    "head.layer_norm.{}": "head.norm.{}",
    "head.decoder.{}": "head.genes.{}",
}


def recognise(directory: Path) -> bool:
    """Whether `config.json` says that scModelForge wrote it."""
    config = directory / "config.json"
    return config.is_file() and "scmodelforge_version" in read_json(config)


def read(directory: Path, *, name: str, revision: str | None, trust_pickle: bool) -> PretrainedCells:
    """Read a transformer encoder.

    Parameters
    ----------
    directory
        Where the files are.
    name, revision, trust_pickle
        As in :func:`sfm.load`.
    """
    from sfm.nn import CellForMaskedLM
    from sfm.tokenizers import RankTokenizer, ValueTokenizer

    content = read_json(directory / "config.json")
    settings, of_tokens = content.get("model_config") or {}, content.get("tokenizer_config") or {}
    _refuse_other_models(content, settings, of_tokens)
    vocabulary = read_vocabulary(directory, settings["vocab_size"])
    model = CellForMaskedLM(make_config(settings, vocabulary))
    load_weights(model, rename(_read_weights(directory, trust_pickle=trust_pickle), _NAMES), source=str(directory))
    make_tokenizer = ValueTokenizer if settings.get("use_expression_values", True) else RankTokenizer
    tokenizer = make_tokenizer(
        vocabulary,
        max_length=min(of_tokens.get("max_genes") or 2048, settings.get("max_seq_len", 2048)),
        prepend_cls=of_tokens.get("prepend_cls", True),
    )
    return PretrainedCells(model.eval(), tokenizer, name=name, revision=revision)


def make_config(settings: Mapping[str, Any], vocabulary: GeneVocabulary) -> CellConfig:
    """Make the configuration of the model that `model_config` describes."""
    from sfm.nn import CellConfig
    from sfm.nn.architectures._encoder import EncoderConfig

    backbone = EncoderConfig(
        hidden_size=settings["hidden_dim"],
        num_hidden_layers=settings["num_layers"],
        num_attention_heads=settings["num_heads"],
        intermediate_size=settings.get("ffn_dim") or 4 * settings["hidden_dim"],
        hidden_act=settings.get("activation", "gelu"),
        norm_first=True,
        layer_norm_eps=1e-12,
        max_position_embeddings=settings.get("max_seq_len", 2048),
        hidden_dropout_prob=settings.get("dropout", 0.0),
    )
    return CellConfig(
        vocab_size=settings["vocab_size"],
        backbone_config=backbone,
        architecture="scmodelforge",
        architecture_settings={"max_length": settings.get("max_seq_len", 2048)},
        pooling="cls" if settings.get("pooling", "cls") == "cls" else "published",
        value_embedding="continuous" if settings.get("use_expression_values", True) else None,
        pad_token_id=vocabulary.pad_id,
        mask_token_id=vocabulary.mask_id,
        cls_token_id=vocabulary.cls_id,
        special_token_ids=sorted(_SPECIAL.values()),
    )


def read_vocabulary(directory: Path, vocab_size: int) -> GeneVocabulary:
    """Read `gene_vocab.json`: a table of token ids, or a list of genes whose tokens follow the special ones."""
    from sfm.genes import GeneVocabulary

    path = directory / _VOCABULARY
    if not path.is_file():
        msg = (
            f"Did not find {_VOCABULARY!r} in {str(directory)!r}, without which tokens mean nothing. scModelForge writes it "
            "with `save_pretrained(..., gene_vocab=...)`: save it with the vocabulary that the model was trained with."
        )
        raise FileNotFoundError(msg)
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        msg = f"{str(path)!r} is not valid JSON ({error}). It may be truncated: save it again."
        raise ValueError(msg) from error
    if isinstance(content, list):
        content = {gene: place + len(_SPECIAL) for place, gene in enumerate(dict.fromkeys(content))}
    if not isinstance(content, dict) or not content:
        msg = f"{str(path)!r} holds a {type(content).__name__}, neither a table of token ids nor a list of genes."
        raise ValueError(msg)
    vocabulary = GeneVocabulary(list(content), token_ids=list(content.values()), special_tokens=_SPECIAL)
    if vocabulary.size != vocab_size:
        msg = (
            f"{str(path)!r} has {vocabulary.size} tokens, but the model has {vocab_size}. scModelForge makes a vocabulary of "
            "each data set: take the one that the model was trained with."
        )
        raise ValueError(msg)
    return vocabulary


def _refuse_other_models(content: Mapping[str, Any], settings: Mapping[str, Any], of_tokens: Mapping[str, Any]) -> None:
    attention = (settings.get("attention") or {}).get("type", "standard")
    found = {
        "model_type": (content.get("model_type"), "transformer_encoder"),
        "attention": (attention, "standard"),
        "tokenizer strategy": (of_tokens.get("strategy", "rank_value"), "rank_value"),
    }
    for what, (value, known) in found.items():
        if value != known:
            msg = f"This scModelForge directory has {what} {value!r}. Only {known!r} is read; train the model anew with `sfm.model.MaskedCellModel`."
            raise ValueError(msg)
    missing = [key for key in ("vocab_size", "hidden_dim", "num_layers", "num_heads") if settings.get(key) is None]
    if missing:
        msg = f"'config.json' has no {missing[0]!r} in its 'model_config'. Save the model again with scModelForge."
        raise ValueError(msg)


def _read_weights(directory: Path, *, trust_pickle: bool) -> dict[str, Tensor]:
    path = directory / _WEIGHTS[0]
    if path.is_file():
        return read_safetensors(path)
    what = "the weights of an scModelForge model"
    weights: dict[str, Tensor] = read_torch_file(directory / _WEIGHTS[1], what=what, trust_pickle=trust_pickle)
    return weights


SCMODELFORGE = Family(
    name="scmodelforge",
    title="scModelForge",
    recognise=recognise,
    read=read,
    patterns=("config.json", *_WEIGHTS, _VOCABULARY),
    layouts=(
        (
            NeededFile(("config.json",), "its settings", decides=True),
            NeededFile(_WEIGHTS, "the weights"),
            NeededFile((_VOCABULARY,), "the tokens of genes"),
        ),
    ),
)
