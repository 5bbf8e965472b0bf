"""The transformer encoder that most published models share, with the few choices in which they differ."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sfm.nn._read_tokens import take_tokens

if TYPE_CHECKING:
    from torch import Tensor

Positions = Literal["learned", "sinusoidal"]


class EncoderConfig(PreTrainedConfig):
    """Configuration of :class:`EncoderModel`.

    Parameters
    ----------
    hidden_size, num_hidden_layers, num_attention_heads, intermediate_size
        Sizes.
    hidden_act
        Activation of the feed-forward: `"relu"` or `"gelu"` (exact).
    norm_first
        Whether layers normalise what goes into a branch (pre-norm) instead of the sum (post-norm).
    final_norm
        Whether a layer norm follows the last layer.
    layer_norm_eps
        Epsilon of all layer norms.
    positions
        `None` for sets without order, `"learned"` for a table, `"sinusoidal"` for the fixed sines and cosines of
        Vaswani et al. (2017).
    max_position_embeddings
        Most tokens, where there are positions.
    hidden_dropout_prob
        Dropout of branches and attention, in training.
    padding_bias
        Number that is added to the attention scores of padding instead of hiding it, as one published model does
        (see :mod:`sfm.checkpoints.uce`). Vectors then depend on the other cells of a minibatch.
    """

    model_type: ClassVar[str] = "sfm_encoder"

    def __init__(  # noqa: PLR0913
        self,
        *,
        hidden_size: int = 512,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 8,
        intermediate_size: int = 512,
        hidden_act: str = "relu",
        norm_first: bool = False,
        final_norm: bool = False,
        layer_norm_eps: float = 1e-5,
        positions: Positions | None = None,
        max_position_embeddings: int = 2048,
        hidden_dropout_prob: float = 0.0,
        padding_bias: float | None = None,
        **kwargs: Any,
    ) -> None:
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.hidden_act = hidden_act
        self.norm_first = norm_first
        self.final_norm = final_norm
        self.layer_norm_eps = layer_norm_eps
        self.positions = positions
        self.max_position_embeddings = max_position_embeddings
        self.hidden_dropout_prob = hidden_dropout_prob
        self.padding_bias = padding_bias
        self.is_causal = False
        self.vocab_size = kwargs.pop("vocab_size", 1)
        kwargs.pop("is_causal", None)
        super().__init__(**kwargs)


class SelfAttention(nn.Module):
    """Attention of all tokens to all tokens; queries, keys and values come of one product."""

    is_causal = False

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.n_heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5

    def forward(
        self, hidden: Tensor, mask: Any, queries: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Return `(cells, queries, dims)` and, where the implementation gives them, attention weights.

        Queries are the tokens at these positions, shape `(cells, queries)`; all by default.
        """
        query, key, value = self._projected(hidden, queries)
        if queries is not None and mask is not None and mask.shape[-2] > 1:
            mask = mask[..., : queries.shape[1], :]  # all its rows are the same: padding is hidden from every query
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, plain_attention)
        dropout = self.config.hidden_dropout_prob if self.training else 0.0
        attended, weights = attend(self, query, key, value, mask, dropout=dropout, scaling=self.scaling, **kwargs)
        return self.output(attended.flatten(2)), weights

    def _projected(self, hidden: Tensor, queries: Tensor | None) -> list[Tensor]:
        """Queries, keys and values, each of shape `(cells, heads, tokens, dims per head)`."""
        if queries is None or type(self.qkv) is not nn.Linear:  # adapters and the like know the whole product alone
            parts = list(self.qkv(hidden).chunk(3, dim=-1))
            parts[0] = take_tokens(parts[0], queries)
        else:
            size, weight, bias = hidden.shape[-1], self.qkv.weight, self.qkv.bias
            query = F.linear(take_tokens(hidden, queries), weight[:size], bias[:size])
            parts = [query, *F.linear(hidden, weight[size:], bias[size:]).chunk(2, dim=-1)]
        return [part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in parts]


def plain_attention(  # noqa: PLR0917
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attention with its weights; the mask is added to the scores."""
    scores = query @ key.mT * scaling  # (cells, heads, queries, keys)
    weights = (scores if mask is None else scores + mask).softmax(dim=-1)
    attended = F.dropout(weights, p=dropout, training=module.training) @ value
    return attended.transpose(1, 2).contiguous(), weights


class EncoderLayer(GradientCheckpointingLayer):
    """Attention and feed-forward, each with a residual connection and a layer norm."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.attention = SelfAttention(config)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feedforward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, hidden: Tensor, mask: Any, queries: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Map `(cells, tokens, dims)` to the same of the tokens `queries`; return attention weights as well."""
        if self.norm_first:
            attended, weights = self.attention(self.attention_norm(hidden), mask, queries, **kwargs)
            hidden = take_tokens(hidden, queries) + self.dropout(attended)
            return hidden + self._feedforward(self.feedforward_norm(hidden)), weights
        attended, weights = self.attention(hidden, mask, queries, **kwargs)
        hidden = self.attention_norm(take_tokens(hidden, queries) + self.dropout(attended))
        return self.feedforward_norm(hidden + self._feedforward(hidden)), weights

    def _feedforward(self, hidden: Tensor) -> Tensor:
        return self.dropout(self.down(self.activation(self.up(hidden))))


class EncoderModel(PreTrainedModel):
    """Transformer encoder over embedded tokens.

    Parameters
    ----------
    config
        The configuration.
    """

    config_class = EncoderConfig
    main_input_name = "inputs_embeds"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        if config.positions == "learned":
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.final_norm else nn.Identity()
        self.gradient_checkpointing = False
        self.post_init()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Do nothing: there is no table of tokens here."""

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SelfAttention):
            init.xavier_uniform_(module.qkv.weight)

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        queries: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Run all layers.

        Parameters
        ----------
        inputs_embeds
            Token embeddings, shape `(cells, tokens, dims)`.
        attention_mask
            One where a token stands, shape `(cells, tokens)`.
        position_ids
            Position of each token, same shape. Default: 0, 1, 2, ...
        output_hidden_states, output_attentions
            Whether to return those of each layer; attention weights need `attn_implementation="eager"`.
        queries
            Positions of the tokens that the result is wanted of, shape `(cells, queries)`: the last layer then leaves out
            the rest. All by default.
        kwargs
            Passed to the attention.
        """
        kwargs.pop("return_dict", None)
        hidden = inputs_embeds + self._positions(inputs_embeds, position_ids)
        mask = self._mask(inputs_embeds, attention_mask)
        states, weights = [hidden], []
        for i, layer in enumerate(self.layers):
            is_last = i == len(self.layers) - 1
            hidden, of_layer = layer(hidden, mask, queries if is_last else None, **kwargs)
            states.append(hidden)
            weights.append(of_layer)
        states[-1] = self.norm(hidden)
        return BaseModelOutput(
            last_hidden_state=states[-1],
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(weights) if output_attentions else None,
        )

    def _positions(self, embeds: Tensor, position_ids: Tensor | None) -> Tensor | float:
        if self.config.positions is None:
            return 0.0
        if position_ids is None:
            position_ids = torch.arange(embeds.shape[1], device=embeds.device)
        if self.config.positions == "learned":
            return self.position_embeddings(position_ids)
        return sinusoids(position_ids, embeds.shape[2]).to(embeds.dtype)

    def _mask(self, embeds: Tensor, attention_mask: Tensor) -> Any:
        bias = self.config.padding_bias
        if bias is None:
            return create_bidirectional_mask(config=self.config, inputs_embeds=embeds, attention_mask=attention_mask)
        on_padding = (1 - attention_mask[:, None, None, :]).to(embeds.dtype) * bias  # (cells, 1, 1, keys)
        return on_padding.expand(-1, -1, embeds.shape[1], -1)


def sinusoids(positions: Tensor, n_dims: int) -> Tensor:
    """Return sines in even and cosines in odd dims, float32 of shape `(*positions, n_dims)`."""
    rates = torch.exp(torch.arange(0, n_dims, 2, device=positions.device) * (-math.log(10_000.0) / n_dims))
    angles = positions.unsqueeze(-1).float() * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)[..., :n_dims]


AutoConfig.register(EncoderConfig.model_type, EncoderConfig, exist_ok=True)
AutoModel.register(EncoderConfig, EncoderModel, exist_ok=True)
