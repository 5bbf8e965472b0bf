"""Transformers backbones that read embeddings instead of token ids."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel

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
        Let each token see only those before it. By default all tokens see each other, in every model type: the genes of
        a cell are a set, and masked training needs both sides.
    sizes
        Any setting of that model type: `hidden_size`, `num_hidden_layers`, `num_attention_heads`, ... The
        feed-forward width is four times `hidden_size` unless `intermediate_size` says otherwise.

    Returns
    -------
    The configuration, of the class that transformers has for `name`.

    Raises
    ------
    ValueError
        If transformers has no such model type, or the model type no such setting.

    Examples
    --------
    >>> from sfm.nn import backbone_config
    >>> backbone_config("bert", hidden_size=64, num_hidden_layers=2, num_attention_heads=4).intermediate_size
    256
    """
    if "hidden_size" in sizes:
        sizes.setdefault("intermediate_size", 4 * sizes["hidden_size"])
    unused = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
    tokens = {"vocab_size": 1, "pad_token_id": 0, **dict.fromkeys(unused)}
    _refuse_unknown_settings(name, sizes)
    return AutoConfig.for_model(name, **tokens, is_causal=is_causal, max_position_embeddings=max_length, **sizes)


def _refuse_unknown_settings(name: str, settings: dict[str, Any]) -> None:
    """Raise for what transformers would take and ignore: a model type or a setting that it does not have."""
    try:
        default = AutoConfig.for_model(name)
    except ValueError as error:
        tested = ", ".join(map(repr, BACKBONES))
        msg = f"transformers has no model type {name!r} for backbone=. Tested backbones: {tested}."
        raise ValueError(msg) from error
    unknown = [key for key in settings if not hasattr(default, key) and key != "attn_implementation"]
    if unknown:
        known = [key for key in default.to_dict() if key not in ("model_type", "transformers_version")]
        close = get_close_matches(unknown[0], known, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        msg = f"Backbone {name!r} has no setting {unknown[0]!r}.{hint}"
        raise ValueError(msg)


class NoEmbedding(nn.Module):
    """Stands where the backbone's own token embedding was, which is never used."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        # No parameter, so that nothing is saved; but transformers initialises `weight` by name.
        self.weight = torch.empty(0, hidden_size)


def build_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    """Build a backbone with random weights, without the parts that a cell model never uses."""
    backbone = AutoModel.from_config(config)
    backbone.set_input_embeddings(NoEmbedding(config.hidden_size))
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None
    return backbone.train()  # new modules train, in torch; transformers makes some in evaluation mode
