"""CellPLM: a cell is one vector, the sum of its genes' vectors weighted by expression, and then a mixture component."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from sfm.nn.architectures._architecture import Architecture
from sfm.nn.architectures._flowformer import cell_groups

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn._config import CellConfig

_NORM_GROUPS = 4
_TINY = 1e-20


class CellPLMEmbedder(nn.Module):
    """One vector per cell, at each of its tokens."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        self.genes = nn.Embedding(config.vocab_size, config.hidden_size)
        self.project = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.GroupNorm(_NORM_GROUPS, config.hidden_size)

    def forward(self, input_ids: Tensor, values: Tensor | None = None, token_type_ids: Tensor | None = None) -> Tensor:
        """Embed cells, `(cells, tokens)` to `(cells, tokens, dims)`."""
        if values is None or token_type_ids is not None:
            msg = "CellPLM embeds expression values and has no token types. Tokenize with the model's own tokenizer."
            raise ValueError(msg)
        # Padding has value 0, tokens of obs as well, and hidden genes count as absent.
        weights = values.clamp(min=0).to(self.genes.weight.dtype)
        known = input_ids.clamp(max=self.genes.num_embeddings - 1)
        summed = F.embedding_bag(known, self.genes.weight, mode="sum", per_sample_weights=weights)  # (cells, dims)
        cells = self.norm(torch.relu(self.project(summed)))
        return cells.unsqueeze(1).expand(-1, input_ids.shape[1], -1)


class CellPLMReadout(nn.Module):
    """Mean of the latent vector, given the mixture component of the cell.

    The component is the likeliest; or drawn, from a stream that starts anew in each minibatch, where
    `config.architecture_settings["seed"]` is a number.
    """

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        settings = config.architecture_settings
        self.n_clusters: int = settings["n_clusters"]
        self.seed: int | None = settings.get("seed")
        self.cells_per_group: int = getattr(config.backbone_config, "cells_per_group", 0)
        self.cluster = nn.Linear(config.hidden_size, self.n_clusters)
        self.expand = nn.Linear(config.hidden_size + self.n_clusters, settings["latent_hidden_size"])
        self.mean = nn.Linear(settings["latent_hidden_size"], settings["latent_size"])

    def forward(self, hidden: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Pool, `(cells, tokens, dims)` to `(cells, latent dims)`."""
        cells = hidden[:, 0]
        logits = self.cluster(cells)
        noise = 0.0 if self.seed is None else self._noise(input_ids[:, 0]).to(logits)
        component = F.one_hot((logits + noise).argmax(dim=-1), self.n_clusters).to(cells.dtype)
        return self.mean(torch.relu(self.expand(torch.cat([cells, component], dim=-1))))

    def _noise(self, first: Tensor) -> Tensor:
        """Gumbel noise in the order of the authors' draws: that of a group of cells, then that of its latent vectors."""
        stream = torch.Generator().manual_seed(self.seed or 0)
        torch.empty((), dtype=torch.int64).random_(generator=stream)  # their data loader takes one
        noise = torch.empty(first.shape[0], self.n_clusters)
        for rows in cell_groups(first.cpu(), self.cells_per_group):
            uniform = torch.rand(len(rows), self.n_clusters, generator=stream)
            noise[rows] = -torch.log(-torch.log(uniform + _TINY) + _TINY)
            torch.randn(len(rows), self.mean.out_features, generator=stream)
        return noise


class CellPLMGenes(nn.Module):
    """The vector of the cell for each of its genes; levels of `obs` are tokens beyond the table."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        self.n_genes = config.vocab_size - 1

    def forward(self, hidden: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors, `(genes, dims)`, and token ids, `(genes,)`."""
        is_gene = attention_mask.bool() & (input_ids < self.n_genes)
        return hidden[is_gene], input_ids[is_gene]


def _vector_size(config: CellConfig) -> int:
    return int(config.architecture_settings["latent_size"])


CELLPLM = Architecture(
    embedder=CellPLMEmbedder,
    readout=CellPLMReadout,
    vector_size=_vector_size,
    gene_readout=CellPLMGenes,
    minibatch_size=64,
)
