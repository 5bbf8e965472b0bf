"""STATE's state embedding: protein embeddings of genes, their share of the expression, and a transformer encoder."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from sfm.nn._pooling import pool
from sfm.nn.architectures._architecture import Architecture
from sfm.nn.architectures._proteins import ProteinTable, embed_distinct

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn._config import CellConfig


class StateEmbedder(nn.Module):
    """Projected protein embeddings, and a soft bin of each gene's share of the expression.

    The tokens `<cls>` and `<dataset>` have vectors of their own as wide as a protein embedding.
    """

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        settings = config.architecture_settings
        self.genes = ProteinTable(config)
        self.cls_id: Any = config.cls_token_id
        self.dataset_id: Any = settings["dataset_token_id"]
        n_genes, width = self.genes.weight.shape
        self.last_gene = n_genes - 1
        self.cls_token = nn.Parameter(torch.zeros(1, width))
        self.dataset_token = nn.Parameter(torch.zeros(1, width))
        self.project = nn.Linear(width, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size)
        n_hidden, n_bins = settings["count_sizes"]
        self.count_encoder = nn.Sequential(nn.Linear(1, n_hidden), nn.LeakyReLU(), nn.Linear(n_hidden, n_bins))
        self.bins = nn.Embedding(n_bins, config.hidden_size)
        self.scale = math.sqrt(config.hidden_size)

    def forward(self, input_ids: Tensor, values: Tensor | None = None, token_type_ids: Tensor | None = None) -> Tensor:
        """Map tokens and values `(cells, tokens)` to `(cells, tokens, dims)`; token types are not used."""
        embeddings = embed_distinct(self.gene_vectors, input_ids)
        if values is None:
            msg = "This model embeds expression values, but values=None. Tokenize with the model's own tokenizer."
            raise ValueError(msg)
        values = values.unsqueeze(-1).to(embeddings.dtype)
        of_values = self.count_encoder(values).softmax(dim=-1) @ self.bins.weight
        return embeddings + of_values * input_ids.ne(self.dataset_id).unsqueeze(-1)

    def gene_vectors(self, tokens: Tensor) -> Tensor:
        """Map tokens `(...)` to vectors `(..., dims)`, each by itself."""
        proteins = self.genes(tokens.clamp(max=self.last_gene))
        proteins = torch.where((tokens == self.cls_id).unsqueeze(-1), self.cls_token, proteins)
        proteins = torch.where((tokens == self.dataset_id).unsqueeze(-1), self.dataset_token, proteins)
        return F.silu(self.norm(self.project(proteins))) * self.scale


class StateReadout(nn.Module):
    """The vector of the cell, of length one, and unless left out the vector of its data set."""

    reads = ("first", "last")

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        settings = config.architecture_settings
        self.up = nn.Linear(config.hidden_size, settings["decoder_size"])
        self.down = nn.Linear(settings["decoder_size"], config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.output = nn.Linear(config.hidden_size, settings["cell_size"])
        self.dataset = nn.Linear(settings["cell_size"], settings["dataset_size"]) if settings["dataset_size"] else None

    def forward(self, hidden: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map `(cells, tokens, dims)` to `(cells, vector_size)`; zeros for cells without tokens."""
        parts = [F.normalize(self.decode(pool(hidden, attention_mask, "cls")), dim=-1)]
        if self.dataset is not None:
            parts.append(self.dataset(self.decode(pool(hidden, attention_mask, "last"))))
        return torch.cat(parts, dim=-1).masked_fill(~attention_mask.bool().any(dim=1, keepdim=True), 0)

    def decode(self, hidden: Tensor) -> Tensor:
        """Map `(..., dims)` to `(..., cell_size)`."""
        return self.output(self.norm(hidden + self.down(F.relu(self.up(hidden)))))


def _vector_size(config: CellConfig) -> int:
    settings = config.architecture_settings
    return int(settings["cell_size"] + settings["dataset_size"])


STATE_SE = Architecture(embedder=StateEmbedder, readout=StateReadout, vector_size=_vector_size)
