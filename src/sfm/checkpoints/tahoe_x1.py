"""Tahoe-x1 (Gandhi et al. 2025, bioRxiv 2025.10.23.683759), models of 70 million to 3 billion weights.

A directory holds `model_config.yml`, `collator_config.yml`, `vocab.json` and the weights, `model.safetensors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sfm.checkpoints._family import Family
from sfm.checkpoints._layout import NeededFile
from sfm.checkpoints._names import rename
from sfm.checkpoints._pretrained import PretrainedCells
from sfm.checkpoints._token_file import read_token_file
from sfm.checkpoints._weights import load_weights, read_safetensors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from sfm.checkpoints._names import Names
    from sfm.genes import GeneVocabulary
    from sfm.genes._fields import Matching
    from sfm.nn import CellConfig

_MODEL = "model_config.yml"
_COLLATOR = "collator_config.yml"
_VOCABULARY = "vocab.json"
_WEIGHTS = "model.safetensors"
_LAYER = "transformer_encoder.layers.{}"
_OWN_LAYER = "cell.backbone.layers.{}"

_NAMES: Names = {
    "gene_encoder.embedding.weight": "cell.embedder.genes.weight",
    "gene_encoder.enc_norm.{}": "cell.embedder.gene_norm.{}",
    "expression_encoder.linear1.{}": "cell.embedder.expand.{}",
    "expression_encoder.linear2.{}": "cell.embedder.project.{}",
    "expression_encoder.norm.{}": "cell.embedder.value_norm.{}",
    f"{_LAYER}.self_attn.Wqkv.{{}}": f"{_OWN_LAYER}.attention.qkv.{{}}",
    f"{_LAYER}.self_attn.out_proj.{{}}": f"{_OWN_LAYER}.attention.output.{{}}",
    f"{_LAYER}.up_proj.{{}}": f"{_OWN_LAYER}.up.{{}}",
    f"{_LAYER}.down_proj.{{}}": f"{_OWN_LAYER}.down.{{}}",
    f"{_LAYER}.norm1.{{}}": f"{_OWN_LAYER}.attention_norm.{{}}",
    f"{_LAYER}.norm2.{{}}": f"{_OWN_LAYER}.feedforward_norm.{{}}",
    "transformer_encoder.norm.{}": "cell.backbone.norm.{}",
    "expression_decoder.linear_layers.{}": "head.layers.{}",
    "expression_decoder.out_proj.{}": "head.output.{}",
    # Used in pretraining alone, or for drugs, which cells of an AnnData have none of.
    "mvc_decoder.{}": None,
    "flag_encoder.{}": None,
    "chem_encoder.{}": None,
}
# The table of genes may have been made larger for the sake of speed, up to the next multiple of this.
_SPARE = 128
_SIZES = ("d_model", "n_layers", "n_heads", "vocab_size")
# Settings that the published models share; another value means other mathematics than that below.
_EXPECTED: dict[tuple[str, ...], Any] = {
    ("norm_scheme",): "pre",
    ("cell_emb_style",): "cls",
    ("use_glu",): False,
    ("norm_config", "norm_type"): "layernorm",
    ("gene_encoder", "use_norm"): True,
    ("expression_encoder", "input_emb_style"): "continuous",
    ("expression_encoder", "use_norm"): True,
    ("expression_decoder", "n_outputs"): 1,
}


def recognise(directory: Path) -> bool:
    """Whether the settings have the names of Tahoe-x1; reading says what else is missing."""
    return sum((directory / name).is_file() for name in (_MODEL, _COLLATOR, _VOCABULARY)) >= 2


def read(
    directory: Path,
    *,
    name: str,
    revision: str | None,
    trust_pickle: bool,
    max_length: int = 2048,
    reference: bool = False,
    seed: int = 0,
) -> PretrainedCells:
    """Read a model.

    Parameters
    ----------
    directory
        Where the four files are.
    name, revision
        As in :func:`sfm.load`.
    trust_pickle
        Unused: the weights are no pickle.
    max_length
        Most tokens of a cell. Default: 2048, as in the authors' script.
    reference
        Draw samples at random, read stored zeros and genes without a bin as Tahoe-x1 does, and match genes by exact id.
    seed
        Seed of these draws.
    """
    from sfm import nn

    model_settings = _read_yaml(directory / _MODEL)
    collator = _read_yaml(directory / _COLLATOR)
    missing = [key for key in _SIZES if key not in model_settings]
    if missing:
        msg = f"{str(directory / _MODEL)!r} does not say {missing[0]!r}. Download the file that belongs to the weights."
        raise ValueError(msg)
    expected_settings = {**_EXPECTED, ("attn_config", "kv_n_heads"): model_settings["n_heads"]}
    for keys, expected in expected_settings.items():
        _refuse_other(directory / _MODEL, model_settings, keys, expected)
    _refuse_other(directory / _COLLATOR, collator, ("do_binning",), True)  # noqa: FBT003
    weights = _read_weights(directory / _WEIGHTS)
    n_rows = weights["gene_encoder.embedding.weight"].shape[0]
    matching: Matching = "exact" if reference else "all"
    vocabulary = read_token_file(directory / _VOCABULARY, n_rows, matching=matching, n_spare=_SPARE)
    tokenizer = _make_tokenizer(collator, vocabulary, max_length, reference=reference, seed=seed)
    model = nn.CellForMaskedValue(make_config(model_settings, vocabulary, tokenizer.max_length))
    load_weights(model, rename(weights, _NAMES), source=str(directory))
    return PretrainedCells(model.eval(), tokenizer, name=name, revision=revision)


def make_config(settings: Mapping[str, Any], vocabulary: GeneVocabulary, max_length: int) -> CellConfig:
    """Make the configuration of the model that `model_config.yml` describes."""
    from sfm.nn import CellConfig
    from sfm.nn.architectures._encoder import EncoderConfig

    values, decoder = settings.get("expression_encoder", {}), settings.get("expression_decoder", {})
    eps = float(settings.get("norm_config", {}).get("eps", 1e-5))
    backbone = EncoderConfig(
        hidden_size=settings["d_model"],
        num_hidden_layers=settings["n_layers"],
        num_attention_heads=settings["n_heads"],
        intermediate_size=settings.get("expansion_ratio", 4) * settings["d_model"],
        hidden_act=settings.get("transformer_activation", "gelu"),
        norm_first=True,
        final_norm=True,
        layer_norm_eps=eps,
        max_position_embeddings=max_length,
    )
    return CellConfig(
        vocab_size=settings["vocab_size"],
        backbone_config=backbone,
        architecture="tahoe_x1",
        architecture_settings={
            "max_value": float(values.get("max_value", 512)),
            "value_activation": values.get("activation", "relu"),
            "value_dropout": float(values.get("dropout", 0.1)),
            "layer_norm_eps": eps,
            "decoder_layers": int(decoder.get("n_layers", 1)),
            "decoder_activation": decoder.get("activation", "leaky_relu"),
        },
        pooling="published",
        value_embedding="bins",
        pad_token_id=vocabulary.pad_id,
        mask_token_id=None,
        cls_token_id=vocabulary.cls_id,
        special_token_ids=sorted(set(range(settings["vocab_size"])) - set(vocabulary.token_ids.tolist())),
    )


def _make_tokenizer(
    collator: Mapping[str, Any], vocabulary: GeneVocabulary, max_length: int, *, reference: bool, seed: int
) -> Any:
    from sfm.tokenizers.published._tahoe_x1 import TahoeX1Tokenizer

    return TahoeX1Tokenizer(
        vocabulary,
        max_length=max_length,
        n_bins=int(collator.get("num_bins", 51)),
        right_binning=bool(collator.get("right_binning", False)),
        # Meant for <cls> and a drug; without drugs the second is the first gene.
        n_unbinned=max(int(collator.get("keep_first_n_tokens", 1)) - 1, 0) if reference else 0,
        reference=reference,
        seed=seed,
    )


def _read_weights(path: Path) -> dict[str, Tensor]:
    weights = {key.removeprefix("model."): tensor for key, tensor in read_safetensors(_existing(path)).items()}
    if "gene_encoder.embedding.weight" not in weights:
        msg = f"{str(path)!r} has no 'gene_encoder.embedding.weight', so it does not hold the weights of Tahoe-x1."
        raise ValueError(msg)
    return weights


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped]

    try:
        content = yaml.safe_load(_existing(path).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        msg = f"{str(path)!r} is not valid YAML ({error}). It may be truncated: download it again."
        raise ValueError(msg) from error
    if not isinstance(content, dict):
        msg = f"{str(path)!r} holds a {type(content).__name__}, not settings. Download it again."
        raise ValueError(msg)
    return content


def _existing(path: Path) -> Path:
    if not path.is_file():
        msg = f"Did not find {path.name!r} in {str(path.parent)!r}, a file of Tahoe-x1. Download it as well."
        raise FileNotFoundError(msg)
    return path


def _refuse_other(path: Path, settings: Mapping[str, Any], keys: tuple[str, ...], expected: Any) -> None:
    found: Any = settings
    for key in keys:
        found = found.get(key, expected) if isinstance(found, dict) else expected
        if found is expected:
            return
    if found != expected:
        msg = (
            f"{str(path)!r} has {'.'.join(keys)}={found!r}; only {expected!r}, that of all published models, is known."
        )
        raise ValueError(msg)


TAHOE_X1 = Family(
    name="tahoe_x1",
    title="Tahoe-x1",
    recognise=recognise,
    read=read,
    patterns=(_MODEL, _COLLATOR, _VOCABULARY, _WEIGHTS),
    options={
        "max_length": "most tokens of a cell, 2048 by default",
        "reference": "True draws samples at random and reads stored zeros and, in the 3b model, the first gene as Tahoe-x1 does",
        "seed": "seed of these draws, 0 by default",
    },
    layouts=(
        (
            NeededFile((_MODEL,), "its settings"),
            NeededFile((_COLLATOR,), "those of its tokens"),
            NeededFile((_VOCABULARY,), "the tokens of genes"),
            NeededFile((_WEIGHTS,), "the weights"),
        ),
    ),
)
