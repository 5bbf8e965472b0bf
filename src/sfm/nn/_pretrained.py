from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from sfm.nn._config import CellConfig

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import Cache


@dataclass
class CellModelOutput(ModelOutput):
    """Output of :class:`CellModel`.

    `last_hidden_state` has shape `(cells, tokens, dims)`; `past_key_values`, and `hidden_states` and `attentions` per
    layer, where asked for.
    """

    last_hidden_state: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class CellPreTrainedModel(PreTrainedModel):
    """Base of all cell models: configuration, weights, saving and loading."""

    config_class = CellConfig
    if TYPE_CHECKING:
        config: CellConfig
    base_model_prefix = "cell"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def _init_weights(self, module: nn.Module) -> None:
        """Fill in what transformers does not know: of our own modules, those with weights of their own say how."""
        super()._init_weights(module)
        initialize = getattr(module, "_init_own_weights", None)
        if initialize is not None:
            initialize(self.config)
