"""Geneformer: a BERT of transformers, whose prediction head has another activation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

from sfm.nn._heads import GenePredictionHead
from sfm.nn.architectures._architecture import Architecture

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn._config import CellConfig


class GeneformerHead(GenePredictionHead):
    """Gene logits against the gene embedding, as BERT computes them with the activation of its layers, ReLU."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__(config)
        self.norm.eps = config.backbone_config.layer_norm_eps

    def forward(self, hidden: Tensor, gene_embedding: Tensor) -> Tensor:
        """Map `(..., dims)` to `(..., vocab_size)`."""
        return F.linear(self.norm(F.relu(self.transform(hidden))), gene_embedding, self.bias)


GENEFORMER = Architecture(gene_head=GeneformerHead)
