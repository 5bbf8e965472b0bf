"""Which model types of transformers can be backbones; the rest raise before they give a wrong vector."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModel

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# In these model types of transformers 5.23 padding changes the result: the attention is estimated over all positions
# (nystromformer, yoso) or the state runs over padding on the left (rwkv). The others do so unless they are causal.
_PADDING_MATTERS = {"nystromformer", "rwkv", "yoso"}
_PADDING_MATTERS_BOTH_SIDES = {"llama4_text", "nemotron", "stablelm"}


def refuse_misfit(config: PreTrainedConfig) -> None:
    """Raise if a model of this configuration cannot be a backbone."""
    name = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        msg = f"Model type {name!r} has an encoder and a decoder. Choose one with a single stack, for example 'bert'."
        raise ValueError(msg)
    accepted = _forward_arguments(config)
    lacks = [f"its forward takes no {key}" for key in ("inputs_embeds", "attention_mask") if key not in accepted]
    lacks += ["its configuration has no hidden_size"] if not hasattr(config, "hidden_size") else []
    if lacks:
        msg = f"Model type {name!r} cannot be a backbone: {', '.join(lacks)}. Choose a text model, for example 'bert'."
        raise ValueError(msg)
    both_sides = not getattr(config, "is_causal", True)
    if name in _PADDING_MATTERS or (both_sides and name in _PADDING_MATTERS_BOTH_SIDES):
        hint = "Pass is_causal=True, or choose another" if name in _PADDING_MATTERS_BOTH_SIDES else "Choose another"
        msg = f"Padding changes what model type {name!r} computes, so a cell's vector would depend on its neighbours. {hint}."
        raise ValueError(msg)
    scaling = _length_dependent_scaling(config)
    if scaling is not None:
        msg = (
            f"rope_type={scaling!r} depends on the longest cell of a minibatch, so a cell's vector would depend on its "
            "neighbours. Choose 'default', 'linear', 'yarn' or 'llama3' if the model type has it, or a max_length that "
            "needs no scaling."
        )
        raise ValueError(msg)


def _length_dependent_scaling(config: PreTrainedConfig) -> str | None:
    rope = getattr(config, "rope_parameters", None) or {}
    parts = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    longest: int = getattr(config, "max_position_embeddings", 0)
    short: int = getattr(config, "original_max_position_embeddings", 0)
    for part in parts:
        unscaled = part.get("original_max_position_embeddings") or short
        if part.get("rope_type") == "dynamic" or (part.get("rope_type") == "longrope" and unscaled < longest):
            return str(part["rope_type"])
    return None


def _forward_arguments(config: PreTrainedConfig) -> set[str]:
    try:
        cls: Any = AutoModel._model_mapping[type(config)]
    except KeyError as error:
        msg = f"transformers has no base model for model type {config.model_type!r}, so it cannot be a backbone."
        raise ValueError(msg) from error
    return set(inspect.signature(cls.forward).parameters)


def attends_backwards_only(backbone: PreTrainedModel) -> bool:
    """Whether each token of a backbone sees only itself and those before it."""
    config = backbone.config
    flags = [module.is_causal for module in backbone.modules() if hasattr(module, "is_causal")]
    return bool(flags) and all(flags) and bool(getattr(config, "is_causal", True))


def refuse_half_causal(backbone: PreTrainedModel) -> None:
    """Raise for a model type that would be causal or not depending on padding and attention implementation."""
    config = backbone.config
    if getattr(config, "is_causal", False) and not attends_backwards_only(backbone):
        msg = (
            f"is_causal=True, but the attention of model type {config.model_type!r} sees both sides. Make the "
            "configuration with sfm.nn.backbone_config(..., is_causal=True), or choose another backbone: "
            "sfm.get.backbones() says which can be causal."
        )
        raise ValueError(msg)


def can_be_causal(config: PreTrainedConfig) -> bool:
    """Whether a model of this configuration is causal, found out without allocating its weights."""
    with torch.device("meta"):
        return attends_backwards_only(AutoModel.from_config(config))
