from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn._config import CellConfig, SamplePoolingKind


class SamplePooling(nn.Module):
    """Vectors of samples from those of their cells.

    `"attention"` is the gated attention of multiple instance learning (Ilse et al. 2018): the weight of a cell is the
    softmax, over the cells of its sample, of `w · (tanh(V x) * sigmoid(U x))`.
    """

    def __init__(self, config: CellConfig, kind: SamplePoolingKind) -> None:
        super().__init__()
        self.kind = kind
        if kind == "attention":
            inner = max(config.vector_size // 2, 1)
            self.content = nn.Linear(config.vector_size, inner)
            self.gate = nn.Linear(config.vector_size, inner)
            self.score = nn.Linear(inner, 1)

    def forward(self, vectors: Tensor, sample_index: Tensor, *, n_samples: int) -> tuple[Tensor, Tensor]:
        """Map `(cells, dims)` to sample vectors `(samples, dims)` and weights of the cells, float32 `(cells,)`."""
        index = sample_index.unsqueeze(1).expand_as(vectors)
        if self.kind == "max":
            pooled = vectors.new_zeros(n_samples, vectors.shape[1])
            pooled = pooled.scatter_reduce(0, index, vectors, "amax", include_self=False)
            return pooled, _shares_of_maxima(vectors.detach(), pooled.detach(), index)
        scores = vectors.new_zeros(len(vectors), dtype=torch.float32)
        if self.kind == "attention":
            gated = torch.tanh(self.content(vectors)) * torch.sigmoid(self.gate(vectors))
            scores = self.score(gated).squeeze(1).float()
        weights = softmax_within(scores, sample_index, n_samples=n_samples)
        weighted = weights.unsqueeze(1) * vectors.float()
        pooled = weighted.new_zeros(n_samples, vectors.shape[1]).index_add(0, sample_index, weighted)
        return pooled.to(vectors.dtype), weights


def softmax_within(scores: Tensor, sample_index: Tensor, *, n_samples: int) -> Tensor:
    """Softmax of scores `(cells,)` over the cells of each sample."""
    highest = scores.new_zeros(n_samples).scatter_reduce(0, sample_index, scores.detach(), "amax", include_self=False)
    exponentials = (scores - highest[sample_index]).exp()
    totals = scores.new_zeros(n_samples).index_add(0, sample_index, exponentials)
    return exponentials / totals[sample_index]


def _shares_of_maxima(vectors: Tensor, pooled: Tensor, index: Tensor) -> Tensor:
    """Share of the dimensions in which a cell is the highest of its sample; cells that are equal share one."""
    highest = (vectors == pooled.gather(0, index)).float()  # (cells, dims)
    n_highest = torch.zeros_like(pooled, dtype=torch.float32).scatter_add(0, index, highest)
    return (highest / n_highest.gather(0, index)).mean(dim=1)
