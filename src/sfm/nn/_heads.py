"""Output layers on top of token and cell vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn._config import CellConfig


class GenePredictionHead(nn.Module):
    """Gene logits from token vectors, against the gene embedding and a bias per gene."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        self.transform = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Tensor, gene_embedding: Tensor) -> Tensor:
        """Map `(..., dims)` to `(..., vocab_size)`."""
        return F.linear(self.norm(F.gelu(self.transform(hidden))), gene_embedding, self.bias)
