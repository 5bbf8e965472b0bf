from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, PreTrainedConfig

from sfm.nn import CellConfig, backbone_config

if TYPE_CHECKING:
    from sfm.tokenizers import Tokenizer

Backbone = str | PreTrainedConfig | dict[str, Any]


def plain_backbone(backbone: Backbone) -> str | dict[str, Any]:
    """Turn a configuration into a dictionary, which can be saved with the model."""
    return backbone.to_dict() if isinstance(backbone, PreTrainedConfig) else backbone


def cell_config(
    tokenizer: Tokenizer,
    backbone: str | dict[str, Any],
    sizes: dict[str, Any],
    *,
    config: dict[str, Any] | None,
    is_causal: bool = False,
    n_cells: int = 1,
    **settings: Any,
) -> CellConfig:
    """Make the configuration of a network for the tokens of `tokenizer`.

    Parameters
    ----------
    tokenizer
        The tokenizer.
    backbone
        A model type of transformers, or the dictionary of a whole configuration, which has its own sizes.
    sizes
        Settings of the backbone, if it is named by its type.
    config
        Dictionary of a complete :class:`sfm.nn.CellConfig`, which has all of this.
    is_causal
        Whether tokens see only those before them.
    n_cells
        How many cells are in a sequence.
    settings
        Settings of :class:`sfm.nn.CellConfig`.
    """
    if config is not None:
        return CellConfig.from_dict(config)
    if isinstance(backbone, str):
        chosen = backbone_config(backbone, max_length=n_cells * tokenizer.max_length, is_causal=is_causal, **sizes)
    else:
        chosen = AutoConfig.for_model(**backbone)
    return CellConfig.for_tokenizer(tokenizer, chosen, **settings)
