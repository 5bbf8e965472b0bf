"""Tables of protein embeddings, from which some published models make the vectors of genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from sfm.nn._config import CellConfig


class ProteinTable(nn.Module):
    """Fixed vectors of tokens, mostly the protein embeddings of genes; not trained.

    `architecture_settings["table_width"]` is their width, and `"table_segments"` lists `(first token, length)` of the
    runs of tokens that the table holds, one after the other. A model of many species thus needs the rows of one alone.

    Parameters
    ----------
    config
        The configuration.
    """

    first_tokens: Tensor
    shifts: Tensor

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        settings = config.architecture_settings
        first_tokens, lengths = torch.tensor(settings["table_segments"]).T.contiguous()
        self.register_buffer("first_tokens", first_tokens, persistent=False)
        self.register_buffer("shifts", first_tokens - (lengths.cumsum(dim=0) - lengths), persistent=False)
        # Zeros take no memory until they are written to.
        weight = torch.zeros(int(lengths.sum()), settings["table_width"])
        self.weight = nn.Parameter(weight, requires_grad=False)

    def rows(self, input_ids: Tensor) -> Tensor:
        """Return the rows of tokens, same shape."""
        segment = torch.bucketize(input_ids, self.first_tokens, right=True) - 1
        return input_ids - self.shifts[segment]

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the vectors of tokens, each of length one, zeros where the table has zeros: `(..., width)`."""
        return F.normalize(F.embedding(self.rows(input_ids), self.weight), dim=-1)


def embed_distinct(embed: Callable[[Tensor], Tensor], input_ids: Tensor) -> Tensor:
    """Embed each of the tokens that occur once: wide vectors are then read and projected once, however many cells share them.

    Parameters
    ----------
    embed
        Maps tokens `(...)` to vectors `(..., dims)`, each by itself.
    input_ids
        Token ids, shape `(cells, tokens)`.
    """
    if torch.compiler.is_compiling():  # how many there are is not known before
        return embed(input_ids)
    distinct, place = input_ids.unique(return_inverse=True)
    return F.embedding(place, embed(distinct))
