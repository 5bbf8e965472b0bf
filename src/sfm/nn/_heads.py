"""Output layers on top of token and cell vectors.

A layer that means something else has another name, so that weights of one objective never slip into another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from sfm.nn.architectures import get_architecture

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

    def _init_own_weights(self, config: CellConfig) -> None:
        init.zeros_(self.bias)

    def forward(self, hidden: Tensor, gene_embedding: Tensor) -> Tensor:
        """Map `(..., dims)` to `(..., vocab_size)`."""
        return F.linear(self.norm(F.gelu(self.transform(hidden))), gene_embedding, self.bias)


def gene_head(config: CellConfig) -> nn.Module:
    """Make what predicts genes: that of the published model, where the configuration names one that has its own."""
    return (get_architecture(config.architecture).gene_head or GenePredictionHead)(config)


class PairHead(nn.Module):
    """Logits of apart and together from the vector of two cells read as one sequence."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        self.compare = nn.Linear(config.vector_size, config.vector_size)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.together = nn.Linear(config.vector_size, 2)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map `(cells, dims)` to `(cells, 2)`."""
        return self.together(self.dropout(torch.tanh(self.compare(vectors))))


class SpanHead(nn.Module):
    """Start and end logits from token vectors."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        self.span = nn.Linear(config.hidden_size, 2)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Map `(cells, tokens, dims)` to two tensors `(cells, tokens)`."""
        start, end = self.span(hidden).float().unbind(dim=-1)
        return start, end


class ChoiceHead(nn.Module):
    """One logit per candidate from cell vectors."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.choice = nn.Linear(config.vector_size, 1)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map `(..., dims)` to `(...)`."""
        return self.choice(self.dropout(vectors)).squeeze(-1).float()


class ValueHead(nn.Module):
    """Parameters of the distribution of a gene's expression, from its token vector.

    With counts, the rate is the share of the gene in the library of its cell, and each gene has its own dispersion.
    """

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        self.likelihood = config.value_likelihood
        self.transform_value = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, 1)
        if self.likelihood != "mse":
            self.log_dispersion = nn.Parameter(torch.zeros(config.vocab_size))
        if self.likelihood == "zinb":
            self.zero = nn.Linear(config.hidden_size, 1)

    def _init_own_weights(self, config: CellConfig) -> None:
        if self.likelihood != "mse":
            init.zeros_(self.log_dispersion)

    def forward(self, hidden: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Map `(..., dims)` and genes `(...)` to value or log-rate, log-dispersion and zero logits, float32 `(...)`."""
        hidden = F.gelu(self.transform_value(hidden))
        value = self.value(hidden).squeeze(-1).float()
        dispersion = None if self.likelihood == "mse" else self.log_dispersion[input_ids].float()
        zero = self.zero(hidden).squeeze(-1).float() if self.likelihood == "zinb" else None
        return value, dispersion, zero


def value_head(config: CellConfig) -> nn.Module:
    """Make what predicts expression: that of the published model, where the configuration names one that has its own."""
    return (get_architecture(config.architecture).value_head or ValueHead)(config)
