"""The tokens that a cell's vector is read from, where they are few."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

#: The first or the last token of a cell, whatever side its padding is on.
End = Literal["first", "last"]


def end_positions(attention_mask: Tensor, ends: Sequence[End]) -> Tensor:
    """Return where the ends of cells stand, shape `(cells, ends)`; somewhere for a cell without tokens.

    Parameters
    ----------
    attention_mask
        One where a token stands, shape `(cells, tokens)`.
    ends
        Which ends, in the order of the result.
    """
    keep = attention_mask.bool().int()
    of_end = {"first": lambda: keep.argmax(dim=1), "last": lambda: keep.shape[1] - 1 - keep.flip(1).argmax(dim=1)}
    return torch.stack([of_end[end]() for end in ends], dim=1)


def take_tokens(hidden: Tensor, positions: Tensor | None) -> Tensor:
    """Return the vectors of some tokens of each cell, `(cells, tokens, dims)` to `(cells, positions, dims)`; all by default."""
    if positions is None:
        return hidden
    return hidden.gather(1, positions.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
