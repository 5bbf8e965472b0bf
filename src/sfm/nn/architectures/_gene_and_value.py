"""scGPT and Tahoe-x1: tokens are sums of a gene and a value, both layer-normed; cells are `<cls>`, of length one.

The encoder behind them is :class:`~sfm.nn.architectures._encoder.EncoderModel`, with layers that normalise after each
branch in scGPT, and before it in Tahoe-x1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.activations import ACT2FN

from sfm.nn._pooling import pool
from sfm.nn.architectures._architecture import Architecture

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn._config import CellConfig


class GeneAndValueSettings(TypedDict, total=False):
    """What stands in `CellConfig.architecture_settings`."""

    max_value: float
    """Values above are read as this."""
    value_activation: Literal["relu", "gelu"]
    value_dropout: float
    """Dropout of embedded values, in training."""
    layer_norm_eps: float
    decoder_layers: int
    """Hidden layers of what predicts values."""
    decoder_activation: Literal["leaky_relu", "relu", "gelu"]
    input_norm: Literal["affine", "plain"]
    """A fixed batch norm of the sum, with a scale and a shift of its own or without; none by default."""
    classifier_layers: Literal["relu_and_norm"]
    """Hidden layers of a classifier of cells like those of scGPT; otherwise they are those of other models."""


class GeneAndValueEmbedder(nn.Module):
    """Layer norm of a gene's vector, plus layer norm of a small network on its value.

    A hidden value is -1, the number that stands for it in these models, too.
    """

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        settings: dict[str, Any] = config.architecture_settings
        width, eps = config.hidden_size, settings.get("layer_norm_eps", 1e-5)
        self.max_value = settings.get("max_value", 512.0)
        self.genes = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        self.gene_norm = nn.LayerNorm(width, eps=eps)
        self.expand = nn.Linear(1, width)
        self.project = nn.Linear(width, width)
        self.value_norm = nn.LayerNorm(width, eps=eps)
        self.activation = ACT2FN[settings.get("value_activation", "relu")]
        self.dropout = nn.Dropout(settings.get("value_dropout", 0.0))
        input_norm = settings.get("input_norm")
        self.input_norm = None if input_norm is None else FixedBatchNorm(width, affine=input_norm == "affine")

    def forward(self, input_ids: Tensor, values: Tensor | None = None, token_type_ids: Tensor | None = None) -> Tensor:
        """Embed tokens, see :class:`CellEmbedder`."""
        if values is None:
            msg = "This model embeds expression values, but values=None. Tokenize with the model's own tokenizer."
            raise ValueError(msg)
        if token_type_ids is not None:
            msg = "token_type_ids were given, but this model has no token types. Leave them out."
            raise ValueError(msg)
        genes = self.gene_vectors(input_ids)  # (cells, tokens, dims)
        clipped = values.clamp(max=self.max_value).unsqueeze(-1).to(self.expand.weight.dtype)
        expanded = self.project(self.activation(self.expand(clipped)))
        tokens = genes + self.dropout(self.value_norm(expanded))
        return tokens if self.input_norm is None else self.input_norm(tokens)

    def gene_vectors(self, tokens: Tensor) -> Tensor:
        """Map genes `(...)` to `(..., dims)`."""
        vectors: Tensor = self.gene_norm(self.genes(tokens))
        return vectors


class FixedBatchNorm(nn.Module):
    """A batch norm whose statistics never change, so that cells do not depend on their minibatch."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, *, affine: bool) -> None:
        super().__init__()
        self.eps = 6.1e-5
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine else None

    def _init_own_weights(self, config: CellConfig) -> None:
        init.zeros_(self.running_mean)
        init.ones_(self.running_var)
        if self.weight is not None and self.bias is not None:
            init.ones_(self.weight)
            init.zeros_(self.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map `(cells, tokens, dims)` to the same shape."""
        # (cells, dims, tokens), as torch wants it
        by_dim = F.batch_norm(
            tokens.mT, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )
        return by_dim.mT


class UnitCls(nn.Module):
    """The vector of the first token, divided by its length."""

    reads = ("first",)

    def __init__(self, config: CellConfig) -> None:
        super().__init__()

    def forward(self, hidden: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map `(cells, tokens, dims)` to `(cells, dims)`; a cell without tokens gets zeros."""
        return F.normalize(pool(hidden, attention_mask, "cls").float(), dim=-1).to(hidden.dtype)


class ValueDecoder(nn.Module):
    """A network from a gene's vector to its value."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        settings: dict[str, Any] = config.architecture_settings
        width = config.hidden_size
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(settings.get("decoder_layers", 2)))
        self.activation = ACT2FN[settings.get("decoder_activation", "leaky_relu")]
        self.output = nn.Linear(width, 1)

    def forward(self, hidden: Tensor, input_ids: Tensor) -> tuple[Tensor, None, None]:
        """Map `(..., dims)` to values, float32 `(...)`; there is neither dispersion nor zero inflation."""
        for layer in self.layers:
            hidden = self.activation(layer(hidden))
        return self.output(hidden).squeeze(-1).float(), None, None


GENE_AND_VALUE = Architecture(
    label_pooling="cls", embedder=GeneAndValueEmbedder, readout=UnitCls, value_head=ValueDecoder
)
