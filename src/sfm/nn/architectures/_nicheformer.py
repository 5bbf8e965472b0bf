"""Nicheformer: a post-norm encoder whose cells are means over what follows three tokens of context."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn
from transformers import AutoConfig, AutoModel

from sfm.nn._pooling import pool
from sfm.nn.architectures._architecture import Architecture
from sfm.nn.architectures._encoder import EncoderConfig, EncoderModel

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.modeling_outputs import BaseModelOutput

    from sfm.nn._config import CellConfig


class NicheformerConfig(EncoderConfig):
    """Configuration of :class:`NicheformerModel`.

    Parameters
    ----------
    unread_token
        Token that no other token attends to, though it has a vector of its own.
    kwargs
        As :class:`EncoderConfig`.
    """

    model_type: ClassVar[str] = "sfm_nicheformer"

    def __init__(self, *, unread_token: int = 1, **kwargs: Any) -> None:
        self.unread_token = unread_token
        super().__init__(**kwargs)


class NicheformerModel(EncoderModel):
    """The encoder of the reference implementation, in which padding looks at the genes and is part of the mean.

    Parameters
    ----------
    config
        The configuration.
    """

    config_class = NicheformerConfig
    reads_cells = True

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor | None = None,
        *,
        input_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Run all layers, see :meth:`EncoderModel.forward`.

        Parameters
        ----------
        inputs_embeds
            Token embeddings, shape `(cells, tokens, dims)`.
        attention_mask
            One where a token stands, shape `(cells, tokens)`.
        position_ids
            Position of each token, same shape. Default: 0, 1, 2, ...
        input_ids
            Tokens, same shape.
        kwargs
            Passed on.
        """
        kwargs.pop("values", None)
        if input_ids is not None:
            attention_mask = attention_mask * (input_ids != self.config.unread_token)
        return super().forward(inputs_embeds, attention_mask, position_ids, **kwargs)


class ContextReadout(nn.Module):
    """Mean over all tokens but the first ones, which say where a cell comes from."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        self.n_left_out: int = config.architecture_settings["left_out_tokens"]

    def forward(self, hidden: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map `(cells, tokens, dims)` to `(cells, dims)`; zeros for a cell without genes."""
        is_token = attention_mask.bool()
        return pool(hidden, is_token & (is_token.cumsum(dim=1) > self.n_left_out), "mean")


class LinearGeneHead(nn.Module):
    """Gene logits by a layer of its own, not by the gene embedding."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, hidden: Tensor, gene_embedding: Tensor) -> Tensor:
        """Map `(..., dims)` to `(..., vocab_size)`."""
        return self.decoder(hidden)


AutoConfig.register(NicheformerConfig.model_type, NicheformerConfig, exist_ok=True)
AutoModel.register(NicheformerConfig, NicheformerModel, exist_ok=True)

NICHEFORMER = Architecture(readout=ContextReadout, gene_head=LinearGeneHead)
