"""Transformers backbones that read embeddings instead of token ids."""

from __future__ import annotations

import inspect
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModel

from sfm.nn._fitness import can_be_causal, refuse_half_causal, refuse_misfit

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

#: Model types of transformers that are tested as backbones, with what each is.
BACKBONES: dict[str, str] = {
    "apertus": "xIELU, QK-norm and grouped-query attention (Swiss AI 2025)",
    "bert": "learned positions, post-norm (Devlin et al. 2019)",
    "llama": "RoPE, RMSNorm, SwiGLU and grouped-query attention (Touvron et al. 2023)",
    "modernbert": "RoPE, GeGLU, alternating local and global attention (Warner et al. 2024)",
    "phi3": "RoPE, RMSNorm, SwiGLU, fused projections (Abdin et al. 2024)",
    "qwen3": "as llama, with QK-norm (Yang et al. 2025)",
    "seed_oss": "as llama, with attention biases (ByteDance Seed 2025)",
}

# Backbones of published models that transformers lacks, which register themselves when they are imported.
_OWN_BACKBONES = {
    "sfm_encoder": "sfm.nn.architectures._encoder",
    "sfm_flowformer": "sfm.nn.architectures._flowformer",
    "sfm_nicheformer": "sfm.nn.architectures._nicheformer",
    "sfm_transcriptformer": "sfm.nn.architectures._transcriptformer_backbone",
}
_UNUSED_TOKENS = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")


def backbone_config(
    name: str = "bert", *, max_length: int = 2048, is_causal: bool = False, **sizes: Any
) -> PreTrainedConfig:
    """Make the configuration of a backbone for cells.

    The backbone gets gene embeddings from sfm, so its own vocabulary shrinks to a single unused entry.

    Parameters
    ----------
    name
        A model type of transformers, for example `"bert"`.
    max_length
        Longest token sequence, special tokens included.
    is_causal
        Let each token see only those before it, for :class:`CellForCausalLM`. By default all tokens see each other, in
        every model type: the genes of a cell are a set, and masked training needs both sides.
    sizes
        Any setting of that model type: `hidden_size`, `num_hidden_layers`, `num_attention_heads`,
        `num_key_value_heads`, `rope_parameters`, `sliding_window`, ... Where they are not given, the feed-forward width
        is four times `hidden_size`, each attention head has its own keys and values, and the heads share `hidden_size`
        evenly.

    Returns
    -------
    The configuration, of the class that transformers has for `name`.

    Raises
    ------
    ValueError
        If transformers has no such model type, the model type no such setting, or it cannot be a backbone.

    Examples
    --------
    >>> from sfm.nn import backbone_config
    >>> backbone_config("bert", hidden_size=64, num_hidden_layers=2, num_attention_heads=4).intermediate_size
    256
    """
    default = _default_config(name)
    _refuse_unknown_settings(default, sizes)
    settings = {"vocab_size": 1, "pad_token_id": 0, "is_causal": is_causal, "max_position_embeddings": max_length}
    if hasattr(default, "is_decoder"):  # how BERT and its relatives call it
        settings["is_causal"] = settings["is_decoder"] = is_causal or sizes.pop("is_decoder", False)
    settings |= _consistent_sizes(default, sizes) | sizes
    try:
        config = AutoConfig.for_model(name, **dict.fromkeys(_UNUSED_TOKENS), **settings)
    except StrictDataclassError:  # a few model types insist on token ids
        config = AutoConfig.for_model(name, **dict.fromkeys(_UNUSED_TOKENS, 0), **settings)
    except AttributeError as error:  # the sizes of models of several parts belong to the parts
        msg = f"Model type {name!r} cannot be configured as a backbone ({error}). Choose a text model, for example 'bert'."
        raise ValueError(msg) from error
    refuse_misfit(config)
    return config


def register_own_backbone(name: str) -> None:
    """Let transformers know a model type of sfm's own."""
    if name in _OWN_BACKBONES:
        import_module(_OWN_BACKBONES[name])


def _default_config(name: str) -> PreTrainedConfig:
    register_own_backbone(name)
    try:
        return AutoConfig.for_model(name)
    except ValueError as error:
        tested = ", ".join(map(repr, BACKBONES))
        msg = f"transformers has no model type {name!r} for backbone=. Tested backbones: {tested}."
        raise ValueError(msg) from error


def _refuse_unknown_settings(default: PreTrainedConfig, settings: dict[str, Any]) -> None:
    """Raise for a setting that transformers would take and ignore."""
    unknown = [key for key in settings if not hasattr(default, key) and key != "attn_implementation"]
    if unknown:
        known = [key for key in default.to_dict() if key not in ("model_type", "transformers_version")]
        close = get_close_matches(unknown[0], known, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        msg = f"Backbone {default.model_type!r} has no setting {unknown[0]!r}.{hint}"
        raise ValueError(msg)


def _consistent_sizes(default: PreTrainedConfig, sizes: dict[str, Any]) -> dict[str, Any]:
    """Sizes that follow from those given, where the default would be that of the published model."""
    derived = {}
    if "hidden_size" in sizes:
        derived["intermediate_size"] = 4 * sizes["hidden_size"]
    if "num_attention_heads" in sizes:
        derived["num_key_value_heads"] = sizes["num_attention_heads"]
    if derived.keys() >= {"intermediate_size", "num_key_value_heads"}:
        derived["head_dim"] = sizes["hidden_size"] // sizes["num_attention_heads"]
    settings = default.to_dict()
    return {key: size for key, size in derived.items() if key in settings}


class NoEmbedding(nn.Module):
    """Stands where the backbone's own token embedding was, which is never used."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        # No parameter, so that nothing is saved; but transformers initialises `weight` by name.
        self.weight = torch.empty(0, hidden_size)


def build_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    """Build a backbone with random weights, without the parts that a cell model never uses."""
    backbone = AutoModel.from_config(config)
    refuse_half_causal(backbone)
    backbone.set_input_embeddings(NoEmbedding(config.hidden_size))
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None
    return backbone.train()  # new modules train, in torch; transformers makes some in evaluation mode


def arguments_of(backbone: PreTrainedModel) -> frozenset[str]:
    """Names of what the backbone's forward takes."""
    return frozenset(inspect.signature(backbone.forward).parameters)


def first_position(backbone: PreTrainedModel) -> int:
    """Position of a first token: RoBERTa and its relatives keep the first positions for padding."""
    table = getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


def describe(name: str) -> dict[str, bool | str]:
    """Facts about a model type, as transformers configures it."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    try:
        backwards_only = can_be_causal(backbone_config(name, max_length=8, is_causal=True, **sizes))
    except ValueError:
        backwards_only = False
    settings = _default_config(name).to_dict()
    return {
        "can_be_causal": backwards_only,
        "grouped_query_attention": "num_key_value_heads" in settings,
        "positions": "RoPE" if "rope_parameters" in settings else "learned",
    }
