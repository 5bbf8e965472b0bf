"""A decoder over all genes with linear attention (Choromanski et al. 2021, Performer, ICLR)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn._config import CellConfig

_EPSILON = 1e-4


class LinearAttention(nn.Module):
    """Attention whose softmax is estimated with stored random features."""

    projection: Tensor

    def __init__(self, hidden_size: int, n_heads: int, head_size: int, n_features: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(hidden_size, n_heads * head_size)
        self.key = nn.Linear(hidden_size, n_heads * head_size)
        self.value = nn.Linear(hidden_size, n_heads * head_size)
        self.output = nn.Linear(n_heads * head_size, hidden_size)
        self.register_buffer("projection", torch.zeros(n_features, head_size))

    def forward(self, hidden: Tensor) -> Tensor:
        """Map `(cells, genes, dims)` to the same shape."""
        query, key, value = (self._heads(layer(hidden)) for layer in (self.query, self.key, self.value))
        query, key = self._features(query, over=(-1,)), self._features(key, over=(1, 2, 3))
        summed = key.mT @ value  # (cells, heads, features, dims per head)
        total = query @ key.sum(dim=2).unsqueeze(-1)  # (cells, heads, genes, 1)
        attended = (query @ summed) / total
        return self.output(attended.transpose(1, 2).flatten(2))

    def _heads(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (cells, heads, genes, dims per head)

    def _features(self, tensor: Tensor, *, over: tuple[int, ...]) -> Tensor:
        """Positive features; the largest exponent over some axes of a cell is subtracted, so that none overflows."""
        scale = tensor.shape[-1] ** -0.25
        exponents = (tensor * scale) @ self.projection.mT
        size = (tensor**2).sum(dim=-1, keepdim=True) / 2 * scale**2
        features = (exponents - size - exponents.amax(dim=over, keepdim=True).detach()).exp() + _EPSILON
        return features * self.projection.shape[0] ** -0.5


class DecoderLayer(nn.Module):
    """Linear attention and feed-forward, each after a layer norm, with residual connections."""

    def __init__(self, sizes: dict[str, Any]) -> None:
        super().__init__()
        size = sizes["hidden_size"]
        self.attention_norm = nn.LayerNorm(size)
        self.attention = LinearAttention(size, sizes["n_heads"], sizes["head_size"], sizes["n_features"])
        self.feedforward_norm = nn.LayerNorm(size)
        self.up = nn.Linear(size, sizes["intermediate_size"])
        self.down = nn.Linear(sizes["intermediate_size"], size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map `(cells, genes, dims)` to the same shape."""
        hidden = hidden + self.attention(self.attention_norm(hidden))
        return hidden + self.down(F.gelu(self.up(self.feedforward_norm(hidden))))


class GeneDecoder(nn.Module):
    """Vectors of all genes of a cell, from those of the expressed ones; and from these, expression.

    `config.architecture_settings["decoder"]` has the sizes.
    """

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        sizes = config.architecture_settings["decoder"]
        self.embed = nn.Linear(config.hidden_size, sizes["hidden_size"])
        self.layers = nn.ModuleList(DecoderLayer(sizes) for _ in range(sizes["n_layers"]))
        self.decoder_norm = nn.LayerNorm(sizes["hidden_size"])
        self.norm = nn.LayerNorm(sizes["hidden_size"])
        self.to_expression = nn.Linear(sizes["hidden_size"], 1)

    def forward(self, embedder: Any, encoded: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed genes, shape `(cells, genes + 2, dims)` with the two read depths last."""
        n_cells, n_entries = encoded.shape[0], embedder.n_genes + 2
        zero = embedder.values(torch.zeros((), device=encoded.device))
        entries = zero.expand(n_cells, n_entries, -1).clone()
        cell, token = attention_mask.nonzero(as_tuple=True)
        entries[cell, input_ids[cell, token]] = encoded[cell, token]
        hidden = self.embed(entries + embedder.genes.weight[:n_entries])
        for layer in self.layers:
            hidden = layer(hidden)
        return self.norm(self.decoder_norm(hidden))

    def expression(self, vectors: Tensor) -> Tensor:
        """Return the log-normalised expression that gene vectors stand for, `(cells, genes, dims)` to `(cells, genes)`."""
        return self.to_expression(vectors).squeeze(-1)
