"""An encoder whose tokens are cells, with flow attention (Wu et al. 2022, Flowformer, ICML)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput

if TYPE_CHECKING:
    from torch import Tensor

_EPSILON = 1e-6


class FlowformerConfig(PreTrainedConfig):
    """Configuration of :class:`FlowformerModel`.

    Parameters
    ----------
    hidden_size, num_hidden_layers, num_attention_heads, intermediate_size
        Sizes.
    layer_norm_eps
        Epsilon of all layer norms.
    hidden_dropout_prob
        Dropout of branches, in training.
    together
        Whether the cells of a minibatch that begin with the same token attend to each other. By default each is alone.
    cells_per_group
        Most cells that do; 0 for all.
    """

    model_type: ClassVar[str] = "sfm_flowformer"

    def __init__(
        self,
        *,
        hidden_size: int = 1024,
        num_hidden_layers: int = 4,
        num_attention_heads: int = 8,
        intermediate_size: int = 2048,
        layer_norm_eps: float = 1e-5,
        hidden_dropout_prob: float = 0.0,
        together: bool = False,
        cells_per_group: int = 0,
        **kwargs: Any,
    ) -> None:
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.layer_norm_eps = layer_norm_eps
        self.hidden_dropout_prob = hidden_dropout_prob
        self.together = together
        self.cells_per_group = cells_per_group
        self.is_causal = False
        self.vocab_size = kwargs.pop("vocab_size", 1)
        kwargs.pop("is_causal", None)
        super().__init__(**kwargs)


class FlowAttention(nn.Module):
    """Attention of the cells of a group to each other, linear in their number."""

    def __init__(self, config: FlowformerConfig) -> None:
        super().__init__()
        self.n_heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map `(groups, cells, dims)` to the same shape."""
        query, key, value = (self._heads(layer(hidden)) for layer in (self.query, self.key, self.value))
        query, key = query.sigmoid(), key.sigmoid()
        incoming = _flow(query, key)
        outgoing = _flow(key, query)
        sink = _flow(query, key / outgoing)
        source = _flow(key, query / incoming).clamp(-1.0, 1.0)
        # Competition among sources, then allocation to sinks.
        offered = value * source.softmax(dim=2) * hidden.shape[1]
        attended = sink.sigmoid() * ((query / incoming) @ (key.mT @ offered))
        return self.output(attended.transpose(1, 2).flatten(2))

    def _heads(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (groups, heads, cells, dims per head)


def _flow(to: Tensor, sources: Tensor) -> Tensor:
    """Flow from all sources into each cell, `(groups, heads, cells, 1)`."""
    return ((to + _EPSILON) * (sources.sum(dim=2, keepdim=True) + _EPSILON)).sum(dim=-1, keepdim=True)


class FlowformerLayer(GradientCheckpointingLayer):
    """Flow attention and feed-forward, each after a layer norm, with residual connections."""

    def __init__(self, config: FlowformerConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = FlowAttention(config)
        self.feedforward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map `(groups, cells, dims)` to the same shape."""
        hidden = hidden + self.dropout(self.attention(self.attention_norm(hidden)))
        return hidden + self.dropout(self.down(F.gelu(self.up(self.feedforward_norm(hidden)))))


class FlowformerModel(PreTrainedModel):
    """Encoder of cells: all tokens of a cell have the same vector, that of the cell.

    Parameters
    ----------
    config
        The configuration.
    """

    config_class = FlowformerConfig
    main_input_name = "inputs_embeds"
    supports_gradient_checkpointing = True
    reads_cells = True

    def __init__(self, config: FlowformerConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(FlowformerLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Do nothing: there is no table of tokens here."""

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        *,
        input_ids: Tensor,
        output_hidden_states: bool = False,
        **_: Any,
    ) -> BaseModelOutput:
        """Run all layers.

        Parameters
        ----------
        inputs_embeds
            Vector of each cell at each of its tokens, shape `(cells, tokens, dims)`.
        attention_mask
            Not needed.
        input_ids
            Token ids, shape `(cells, tokens)`; the first of a cell names its group.
        output_hidden_states
            Whether to return those of each layer.
        """
        n_tokens = inputs_embeds.shape[1]
        alone = inputs_embeds[:, :1]  # (cells, 1, dims)
        if not self.config.together:
            states = self._run(alone)
        else:
            rows = cell_groups(input_ids[:, 0], self.config.cells_per_group)
            parts = [self._run(alone[group].transpose(0, 1)) for group in rows]
            back = torch.cat(rows).argsort()
            states = [torch.cat(of_layer, dim=1).transpose(0, 1)[back] for of_layer in zip(*parts, strict=True)]
        expanded = [state.expand(-1, n_tokens, -1) for state in states]
        return BaseModelOutput(
            last_hidden_state=self.norm(states[-1]).expand(-1, n_tokens, -1),
            hidden_states=tuple(expanded) if output_hidden_states else None,
        )

    def _run(self, hidden: Tensor) -> list[Tensor]:
        """Return the hidden states of groups of cells, `(groups, cells, dims)` each."""
        states = [hidden]
        for layer in self.layers:
            hidden = layer(hidden)
            states.append(hidden)
        return states


def cell_groups(first: Tensor, cells_per_group: int) -> list[Tensor]:
    """Return the rows of each group: cells with the same first token, in runs of some number or whole.

    Groups are in the order in which their tokens first appear, rows ascend.
    """
    rows = [torch.nonzero(first == token).squeeze(1) for token in dict.fromkeys(first.tolist())]
    return [part for group in rows for part in group.split(cells_per_group or len(group))]


AutoConfig.register(FlowformerConfig.model_type, FlowformerConfig, exist_ok=True)
AutoModel.register(FlowformerConfig, FlowformerModel, exist_ok=True)
