from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import initialization as init

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn._config import CellConfig, Pooling


def pool(hidden: Tensor, mask: Tensor, pooling: Pooling = "mean") -> Tensor:
    """Turn token vectors into one vector per cell; tokens outside `mask` have no influence.

    Parameters
    ----------
    hidden
        Token vectors, shape `(cells, tokens, dims)`.
    mask
        One for each token that takes part, shape `(cells, tokens)`; padding may be on either side.
    pooling
        `"mean"` and `"max"` over the tokens in `mask`, `"cls"` the first and `"last"` the last of them. Pooling by
        `"attention"` has weights: see :class:`AttentionPooling`.

    Returns
    -------
    Cell vectors, shape `(cells, dims)`. A cell without any token gets zeros.

    Raises
    ------
    ValueError
        If `pooling` is none of these.

    Examples
    --------
    >>> import torch
    >>> from sfm.nn import pool
    >>> hidden = torch.tensor([[[1.0], [3.0], [100.0]]])
    >>> pool(hidden, torch.tensor([[1, 1, 0]]), "mean")
    tensor([[2.]])
    """
    keep = mask.bool()
    match pooling:
        case "mean":
            kept = hidden.masked_fill(~keep.unsqueeze(-1), 0)  # (cells, tokens, dims)
            return kept.sum(dim=1) / keep.sum(dim=1, keepdim=True).clamp(min=1)
        case "max":
            pooled = hidden.masked_fill(~keep.unsqueeze(-1), float("-inf")).amax(dim=1)
        case "cls":
            pooled = _at(hidden, keep.int().argmax(dim=1))
        case "last":
            pooled = _at(hidden, keep.shape[1] - 1 - keep.flip(1).int().argmax(dim=1))
        case "attention":
            msg = "Pooling by 'attention' has weights. Configure the model with pooling='attention', or use AttentionPooling."
            raise ValueError(msg)
        case _:
            msg = f"Unknown pooling={pooling!r}. Choose 'mean', 'cls', 'last' or 'max'."
            raise ValueError(msg)
    return pooled.masked_fill(~keep.any(dim=1, keepdim=True), 0)


def _at(hidden: Tensor, position: Tensor) -> Tensor:
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), position]


class AttentionPooling(nn.Module):
    """Mean of token vectors with weights from a learnt query (Yang et al. 2016, hierarchical attention networks).

    The query starts at zero, where all weights are equal and the result is the mean.

    Parameters
    ----------
    config
        The configuration, for its width.

    Examples
    --------
    >>> import torch
    >>> from sfm.nn import AttentionPooling, CellConfig
    >>> pooling = AttentionPooling(CellConfig())
    >>> pooling.weights(torch.randn(1, 3, 768), torch.tensor([[1, 1, 0]])).detach()
    tensor([[0.5000, 0.5000, 0.0000]])
    """

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(config.hidden_size))

    def _init_own_weights(self, config: CellConfig) -> None:
        init.zeros_(self.query)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Pool token vectors.

        Parameters
        ----------
        hidden
            Token vectors, shape `(cells, tokens, dims)`.
        mask
            One for each token that takes part, shape `(cells, tokens)`.

        Returns
        -------
        Cell vectors, shape `(cells, dims)`; zeros for a cell without any token.
        """
        kept = hidden.masked_fill(~mask.bool().unsqueeze(-1), 0)  # (cells, tokens, dims)
        weights = self.weights(kept, mask).to(hidden.dtype)
        return (weights.unsqueeze(-1) * kept).sum(dim=1)

    def weights(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return how much each token counts.

        Parameters
        ----------
        hidden
            Token vectors, shape `(cells, tokens, dims)`.
        mask
            One for each token that takes part, shape `(cells, tokens)`.

        Returns
        -------
        Weights, float32, shape `(cells, tokens)`; they sum to one per cell and are zero outside `mask`.
        """
        keep = mask.bool()
        scores = (hidden.float() * self.query.float()).sum(dim=-1) / math.sqrt(hidden.shape[-1])
        # The lowest finite number, since a softmax over minus infinity alone is NaN, and so is its gradient.
        weights = scores.masked_fill(~keep, torch.finfo(torch.float32).min).softmax(dim=1)
        return weights.masked_fill(~keep, 0)
