"""The transformer encoder of scModelForge: positions and a norm in the embedder, and a table of its own in the head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from sfm.nn._masking import HIDDEN_VALUE
from sfm.nn.architectures._architecture import Architecture

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn._config import CellConfig

_EPSILON = 1e-12


class ScModelForgeEmbedder(nn.Module):
    """Norm of the sum of the vectors of gene, position and, where the model has it, expression."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        self.genes = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.positions = nn.Embedding(config.architecture_settings["max_length"], config.hidden_size)
        self.expression = nn.Linear(1, config.hidden_size) if config.value_embedding == "continuous" else None
        self.norm = nn.LayerNorm(config.hidden_size, eps=_EPSILON)

    def forward(self, input_ids: Tensor, values: Tensor | None = None, token_type_ids: Tensor | None = None) -> Tensor:
        """Embed tokens, `(cells, tokens)` to `(cells, tokens, dims)`."""
        if token_type_ids is not None or (self.expression is not None and values is None):
            msg = "This model has no token types, and may embed expression values. Tokenize with its own tokenizer."
            raise ValueError(msg)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        embedded = self.genes(input_ids) + self.positions(positions)
        if self.expression is not None and values is not None:
            seen = values.masked_fill(values == HIDDEN_VALUE, 0.0).to(embedded.dtype)
            embedded = embedded + self.expression(seen.unsqueeze(-1))
        return self.norm(embedded)


class ScModelForgeHead(nn.Module):
    """Logits of genes, with a table of its own."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        self.transform = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=_EPSILON)
        self.genes = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, hidden: Tensor, gene_embedding: Tensor) -> Tensor:
        """Map `(..., dims)` to `(..., vocab_size)`."""
        return self.genes(self.norm(F.gelu(self.transform(hidden))))


class ScModelForgeMean(nn.Module):
    """Mean over all tokens, `<cls>` included."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()

    def forward(self, hidden: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Pool, `(cells, tokens, dims)` to `(cells, dims)`."""
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


SCMODELFORGE = Architecture(embedder=ScModelForgeEmbedder, readout=ScModelForgeMean, gene_head=ScModelForgeHead)
