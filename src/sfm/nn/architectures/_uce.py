"""UCE: protein embeddings of genes drawn by expression, a transformer encoder, and a network on the token `<cls>`."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import nn
from torch.nn import functional as F

from sfm.nn._pooling import pool
from sfm.nn.architectures._architecture import Architecture
from sfm.nn.architectures._proteins import ProteinTable, embed_distinct

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn._config import CellConfig


class UCEEmbedder(nn.Module):
    """Protein embeddings of length one, brought to the width of the backbone."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        self.genes = ProteinTable(config)
        self.project = nn.Linear(self.genes.weight.shape[1], config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.scale = math.sqrt(config.hidden_size)

    def forward(self, input_ids: Tensor, values: Tensor | None = None, token_type_ids: Tensor | None = None) -> Tensor:
        """Map tokens `(cells, tokens)` to `(cells, tokens, dims)`; values and token types are not used."""
        return embed_distinct(self.gene_vectors, input_ids)

    def gene_vectors(self, tokens: Tensor) -> Tensor:
        """Map tokens `(...)` to vectors `(..., dims)`, each by itself."""
        return self.norm(F.gelu(self.project(self.genes(tokens)))) * self.scale


class UCEReadout(nn.Module):
    """Cell vectors of length one from the vectors of `<cls>`."""

    reads = ("first",)

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        *inner, last = pairwise([config.hidden_size, *config.architecture_settings["decoder_sizes"]])
        blocks = [nn.Sequential(nn.Linear(*sizes), nn.LayerNorm(sizes[1]), nn.GELU()) for sizes in inner]
        self.decoder = nn.Sequential(*blocks, nn.Linear(*last))

    def forward(self, hidden: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map `(cells, tokens, dims)` to `(cells, vector_size)`; zeros for cells without tokens."""
        vectors = F.normalize(self.decoder(pool(hidden, attention_mask, "cls")), dim=-1)
        return vectors.masked_fill(~attention_mask.bool().any(dim=1, keepdim=True), 0)


def _vector_size(config: CellConfig) -> int:
    return int(config.architecture_settings["decoder_sizes"][-1])


UCE = Architecture(embedder=UCEEmbedder, readout=UCEReadout, vector_size=_vector_size)
