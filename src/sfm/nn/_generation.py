"""What a generated cell may hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import LogitsProcessor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class EachGeneOnce(LogitsProcessor):
    """Rule out genes that a cell already has, and special tokens other than the one that ends it.

    Parameters
    ----------
    special_token_ids
        Token ids that are no genes.
    eos_token_id
        Token id that ends a cell, or `None`: then cells end with their length.
    pad_token_id
        Token id that is left when a cell has all genes and nothing ends it.
    """

    def __init__(
        self, special_token_ids: Sequence[int], *, eos_token_id: int | None, pad_token_id: int | None = None
    ) -> None:
        self.special_token_ids = list(special_token_ids)
        self.last = next((token for token in (eos_token_id, pad_token_id) if token is not None), None)
        self.eos_token_id = eos_token_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Set the scores of what may not come next to minus infinity.

        Parameters
        ----------
        input_ids
            Tokens so far, shape `(cells, tokens)`.
        scores
            Scores of the next token, shape `(cells, vocab_size)`.

        Returns
        -------
        Scores, same shape.
        """
        banned = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, input_ids, value=True)
        banned[:, self.special_token_ids] = True
        if self.eos_token_id is not None:
            banned[:, self.eos_token_id] = False
        if self.last is not None:
            banned[:, self.last] &= ~banned.all(dim=1)
        return scores.masked_fill(banned, float("-inf"))
