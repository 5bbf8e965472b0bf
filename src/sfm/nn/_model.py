from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from sfm._docs import MINIBATCH, doc_params
from sfm.nn._backbone import build_backbone
from sfm.nn._config import CellConfig
from sfm.nn._embedder import CellEmbedder
from sfm.nn._pooling import pool

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sfm.nn._config import Pooling


@dataclass
class CellModelOutput(ModelOutput):
    """Output of :class:`CellModel`.

    `last_hidden_state` has shape `(cells, tokens, dims)`; `hidden_states` and `attentions` are per layer, where asked
    for.
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class CellPreTrainedModel(PreTrainedModel):
    """Base of all cell models: configuration, weights, saving and loading."""

    config_class = CellConfig
    base_model_prefix = "cell"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True


class CellModel(CellPreTrainedModel):
    """Gene and value embedding, a transformers backbone, and pooling.

    Parameters
    ----------
    config
        The configuration.

    Examples
    --------
    >>> import torch
    >>> from sfm.nn import CellConfig, CellModel, backbone_config
    >>> sizes = backbone_config("bert", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, max_length=64)
    >>> model = CellModel(CellConfig(vocab_size=10, backbone_config=sizes)).eval()
    >>> model.encode(torch.tensor([[2, 4, 5]]), torch.ones(1, 3, dtype=torch.long)).shape
    torch.Size([1, 16])
    """

    # The heads of models with an objective are left out when only the cell vectors are wanted.
    _keys_to_ignore_on_load_unexpected = [r"^head\."]

    def __init__(self, config: CellConfig) -> None:
        super().__init__(config)
        self.embedder = CellEmbedder(config)
        self.backbone = build_backbone(config.backbone_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the gene embedding."""
        return self.embedder.genes

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the gene embedding.

        Parameters
        ----------
        value
            An embedding with one row per token id.
        """
        self.embedder.genes = value  # type: ignore[assignment]

    @doc_params(minibatch=MINIBATCH)
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        values: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> CellModelOutput:
        """Run the backbone.

        Parameters
        ----------
        {minibatch}
        labels
            Unused here; the models with an objective read it.
        kwargs
            Passed to the backbone, for example `output_hidden_states=True`.
        """
        # A row without tokens attends to its first padding, since softmax over nothing is NaN; pooling ignores it.
        attended = attention_mask.clone()
        attended[:, 0] |= attention_mask.sum(dim=1) == 0
        embeddings = self.embedder(input_ids, values)
        output = self.backbone(inputs_embeds=embeddings, attention_mask=attended, return_dict=True, **kwargs)
        return CellModelOutput(
            last_hidden_state=output.last_hidden_state,
            hidden_states=output.get("hidden_states"),
            attentions=output.get("attentions"),
        )

    @doc_params(minibatch=MINIBATCH)
    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        values: Tensor | None = None,
        *,
        pooling: Pooling | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Embed cells.

        Parameters
        ----------
        {minibatch}
        pooling
            Another pooling than that of the configuration.
        kwargs
            Passed to the backbone.

        Returns
        -------
        Cell vectors, shape `(cells, dims)`; zeros for a cell without tokens.
        """
        hidden = self(input_ids, attention_mask, values, **kwargs).last_hidden_state
        return self.pool(hidden, input_ids, attention_mask, pooling=pooling)

    def pool(self, hidden: Tensor, input_ids: Tensor, attention_mask: Tensor, *, pooling: Pooling | None) -> Tensor:
        """Pool token vectors; mean and max over gene tokens only.

        Parameters
        ----------
        hidden
            Token vectors, shape `(cells, tokens, dims)`.
        input_ids
            Token ids, shape `(cells, tokens)`.
        attention_mask
            One where a token stands, same shape.
        pooling
            Another pooling than that of the configuration, or `None`.

        Returns
        -------
        Cell vectors, shape `(cells, dims)`.
        """
        pooling = self.config.pooling if pooling is None else pooling
        mask = attention_mask
        if pooling in ("mean", "max"):
            special = torch.tensor(self.config.special_token_ids, device=input_ids.device)
            mask = mask * torch.isin(input_ids, special, invert=True)
        return pool(hidden, mask, pooling)
