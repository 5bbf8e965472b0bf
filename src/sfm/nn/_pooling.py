from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn._config import Pooling


def pool(hidden: Tensor, mask: Tensor, pooling: Pooling = "mean") -> Tensor:
    """Turn token vectors into one vector per cell; tokens outside `mask` have no influence.

    Parameters
    ----------
    hidden
        Token vectors, shape `(cells, tokens, dims)`.
    mask
        One for each token that takes part, shape `(cells, tokens)`; padding may be on either side.
    pooling
        `"mean"` and `"max"` over the tokens in `mask`, `"cls"` the first and `"last"` the last of them.

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
        case _:
            msg = f"Unknown pooling={pooling!r}. Choose 'mean', 'cls', 'last' or 'max'."
            raise ValueError(msg)
    return pooled.masked_fill(~keep.any(dim=1, keepdim=True), 0)


def _at(hidden: Tensor, position: Tensor) -> Tensor:
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), position]
