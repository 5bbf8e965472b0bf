"""The network of TranscriptFormer: attention to the genes before, whose scores know how high each is expressed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

# Scores that are in memory at a time: what a processor's cache holds, or what keeps a GPU busy.
_MAX_SCORES = {"cpu": 1 << 21, "cuda": 1 << 27}
_MIN_QUERIES = 16


class TranscriptformerConfig(PreTrainedConfig):
    """Configuration of :class:`TranscriptformerModel`.

    Parameters
    ----------
    hidden_size, num_hidden_layers, num_attention_heads, intermediate_size
        Sizes.
    hidden_act
        Activation of the feed-forward.
    softcap
        Attention scores are bent to stay between this and its negative; 0 leaves them.
    count_epsilon
        What is added to counts before their logarithm.
    attention_bias, feedforward_bias
        Whether these layers have biases.
    unread_token_ids
        Tokens that no other token attends to.
    hidden_dropout_prob
        Dropout of branches and attention, in training.
    """

    model_type: ClassVar[str] = "sfm_transcriptformer"

    def __init__(  # noqa: PLR0913
        self,
        *,
        hidden_size: int = 2048,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 16,
        intermediate_size: int = 2048,
        hidden_act: str = "gelu",
        softcap: float = 10.0,
        count_epsilon: float = 1e-6,
        attention_bias: bool = False,
        feedforward_bias: bool = False,
        unread_token_ids: Sequence[int] = (),
        hidden_dropout_prob: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.hidden_act = hidden_act
        self.softcap = softcap
        self.count_epsilon = count_epsilon
        self.attention_bias = attention_bias
        self.feedforward_bias = feedforward_bias
        self.unread_token_ids = list(unread_token_ids)
        self.hidden_dropout_prob = hidden_dropout_prob
        self.is_causal = True
        self.vocab_size = kwargs.pop("vocab_size", 1)
        kwargs.pop("is_causal", None)
        super().__init__(**kwargs)


class CountAttention(nn.Module):
    """Attention to the tokens before, each of which is favoured by the logarithm of its count."""

    is_causal = True

    def __init__(self, config: TranscriptformerConfig) -> None:
        super().__init__()
        sizes: dict[str, Any] = {"bias": config.attention_bias}
        self.query = nn.Linear(config.hidden_size, config.hidden_size, **sizes)
        self.key = nn.Linear(config.hidden_size, config.hidden_size, **sizes)
        self.value = nn.Linear(config.hidden_size, config.hidden_size, **sizes)
        self.output = nn.Linear(config.hidden_size, config.hidden_size, **sizes)
        self.n_heads = config.num_attention_heads
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.softcap = config.softcap
        self.dropout = config.hidden_dropout_prob

    def forward(
        self, hidden: Tensor, bias: Tensor, is_read: Tensor, *, return_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Return `(cells, tokens, dims)` and, if wanted, weights.

        The bias of keys, and whether they are read, have shape `(cells, tokens)`. Some queries are computed at a time:
        the scores of all would take 268 MB for a cell of 2,048 tokens and 16 heads.
        """
        n_cells, n_tokens, _ = hidden.shape
        shape = (n_cells, n_tokens, self.n_heads, -1)
        # (cells, heads, tokens, dims per head)
        query, key, value = (make(hidden).view(shape).transpose(1, 2) for make in (self.query, self.key, self.value))
        most = _MAX_SCORES.get(hidden.device.type, _MAX_SCORES["cuda"])
        size = max(most // (n_cells * self.n_heads * n_tokens), _MIN_QUERIES)
        attended, weights = [], []
        for start in range(0, n_tokens, size):
            rows, keys = slice(start, start + size), slice(0, start + size)
            of_rows, looks = self._weights(query[:, :, rows], key[:, :, keys], bias[:, keys], is_read[:, keys])
            attended.append(F.dropout(of_rows, self.dropout, training=self.training) @ value[:, :, keys] * looks)
            if return_weights:
                weights.append(F.pad(of_rows * looks, (0, n_tokens - of_rows.shape[-1])))
        joined = torch.cat(attended, dim=2).transpose(1, 2).reshape(n_cells, n_tokens, -1)
        return self.output(joined), torch.cat(weights, dim=2) if return_weights else None

    def _weights(self, query: Tensor, key: Tensor, bias: Tensor, is_read: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights of the last queries, and whether a query may look anywhere; else its weights mean nothing."""
        bend, cap, slope = self._cap(query.dtype)
        scores = (query * (self.scaling * slope)) @ key.mT
        scores += (bias * slope)[:, None, None, :].to(scores.dtype)
        if bend is not None:
            scores = bend(scores)
        n_queries, n_keys = scores.shape[-2:]
        before = torch.ones(n_queries, n_keys, dtype=torch.bool, device=scores.device).tril(n_keys - n_queries)
        allowed = before & is_read[:, None, None, :]  # (cells, 1, queries, keys)
        mask = torch.zeros(allowed.shape, dtype=scores.dtype, device=scores.device)
        mask = mask.masked_fill(~allowed, torch.finfo(scores.dtype).min)
        return torch.add(mask, scores, alpha=cap).softmax(dim=-1), allowed.any(dim=-1, keepdim=True)

    def _cap(self, dtype: torch.dtype) -> tuple[Callable[[Tensor], Tensor] | None, float, float]:
        """Return the function that bends scores, and what is multiplied after it and before."""
        if self.softcap <= 0:
            return None, 1.0, 1.0
        if dtype == torch.float32:
            # Softmax ignores the constant in which 2 sigmoid(2 x) and tanh(x) differ, and torch's tanh takes thrice as long.
            return torch.sigmoid, 2 * self.softcap, 2 / self.softcap
        return torch.tanh, self.softcap, 1 / self.softcap  # sigmoid near 1/2 has too few digits in bf16


class TranscriptformerLayer(GradientCheckpointingLayer):
    """Attention and feed-forward, each added to its own normalised input: neither pre-norm nor post-norm."""

    def __init__(self, config: TranscriptformerConfig) -> None:
        super().__init__()
        self.attention = CountAttention(config)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.feedforward_bias)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.feedforward_bias)
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.feedforward_norm = nn.LayerNorm(config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden: Tensor, bias: Tensor, is_read: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """Map `(cells, tokens, dims)` to the same shape, and return attention weights as well."""
        hidden = self.attention_norm(hidden)
        attended, weights = self.attention(hidden, bias, is_read, **kwargs)
        hidden = self.feedforward_norm(hidden + self.dropout(attended))
        return hidden + self.dropout(self.down(self.activation(self.up(hidden)))), weights


class TranscriptformerModel(PreTrainedModel):
    """Causal transformer over embedded genes and their counts.

    Parameters
    ----------
    config
        The configuration. Without layers, the token embeddings come out as they are.
    """

    config_class = TranscriptformerConfig
    main_input_name = "inputs_embeds"
    supports_gradient_checkpointing = True
    reads_cells = True
    is_causal = True

    def __init__(self, config: TranscriptformerConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(TranscriptformerLayer(config) for _ in range(config.num_hidden_layers))
        self.gradient_checkpointing = False
        self.post_init()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Do nothing: there is no table of tokens here."""

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        *,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Run all layers.

        Parameters
        ----------
        inputs_embeds
            Token embeddings, shape `(cells, tokens, dims)`.
        attention_mask
            One where a token stands, shape `(cells, tokens)`.
        input_ids, values
            Tokens and their counts, same shape.
        output_hidden_states, output_attentions
            Whether to return those of each layer.
        kwargs
            Not used.

        Raises
        ------
        ValueError
            If there are no counts.
        """
        if input_ids is None or (values is None and len(self.layers)):
            msg = "TranscriptFormer reads tokens with their counts, but values=None. Pass those of its tokenizer."
            raise ValueError(msg)
        unread = torch.tensor(self.config.unread_token_ids, device=input_ids.device)
        is_read = attention_mask.bool() & torch.isin(input_ids, unread, invert=True)
        bias = attention_mask if values is None else torch.log1p(values.clamp(min=0) + self.config.count_epsilon)
        states, weights = [inputs_embeds], []
        for layer in self.layers:
            hidden, of_layer = layer(states[-1], bias, is_read, return_weights=output_attentions)
            states = [*states, hidden] if output_hidden_states else [hidden]
            weights.append(of_layer)
        return BaseModelOutput(
            last_hidden_state=states[-1],
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(weights) if output_attentions else None,
        )


AutoConfig.register(TranscriptformerConfig.model_type, TranscriptformerConfig, exist_ok=True)
AutoModel.register(TranscriptformerConfig, TranscriptformerModel, exist_ok=True)
