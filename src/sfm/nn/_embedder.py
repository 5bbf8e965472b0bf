from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from sfm.nn._masking import HIDDEN_VALUE

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn._config import CellConfig


class CellEmbedder(nn.Module):
    """Sum of a gene embedding and, where the model has them, of a value and a segment embedding.

    Parameters
    ----------
    config
        Sizes, and the kind of value embedding.
    """

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        self.genes = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.values = _value_embedding(config)
        segments = config.type_vocab_size
        self.segments = nn.Embedding(segments, config.hidden_size) if segments else None

    def forward(self, input_ids: Tensor, values: Tensor | None = None, token_type_ids: Tensor | None = None) -> Tensor:
        """Embed tokens.

        Parameters
        ----------
        input_ids
            Token ids, shape `(cells, tokens)`.
        values
            Expression values, same shape; needed if the model has a value embedding, unused otherwise.
        token_type_ids
            Segment of each token, same shape; all 0 by default.

        Returns
        -------
        Token embeddings, shape `(cells, tokens, dims)`.

        Raises
        ------
        ValueError
            If the model embeds values and there are none, or there are token types and it embeds none.
        """
        embeddings = self.genes(input_ids)  # (cells, tokens, dims)
        if self.segments is not None:
            segments = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
            embeddings = embeddings + self.segments(segments)
        elif token_type_ids is not None:
            msg = "token_type_ids were given, but this model has no token types. Configure it with type_vocab_size=2."
            raise ValueError(msg)
        if self.values is None:
            return embeddings
        if values is None:
            msg = "This model embeds expression values, but values=None. Tokenize with the model's own tokenizer."
            raise ValueError(msg)
        return embeddings + self.values(values)


def _value_embedding(config: CellConfig) -> nn.Module | None:
    match config.value_embedding:
        case None:
            return None
        case "bins":
            return BinEmbedding(config.n_bins, config.hidden_size)
        case "continuous":
            return ContinuousEmbedding(config.hidden_size)
        case other:
            msg = f"Unknown value_embedding={other!r}. Choose None, 'bins' or 'continuous'."
            raise ValueError(msg)


class BinEmbedding(nn.Module):
    """One vector per expression bin, and one for hidden values."""

    def __init__(self, n_bins: int, hidden_size: int) -> None:
        super().__init__()
        self.n_bins = n_bins
        self.table = nn.Embedding(n_bins + 1, hidden_size)

    def forward(self, values: Tensor) -> Tensor:
        """Embed bins, shape `(cells, tokens)` to `(cells, tokens, dims)`."""
        bins = values.long().clamp(max=self.n_bins - 1)
        return self.table(torch.where(values == HIDDEN_VALUE, self.n_bins, bins))


class ContinuousEmbedding(nn.Module):
    """A two-layer network on the value, and a vector for hidden values."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.expand = nn.Linear(1, hidden_size)
        self.project = nn.Linear(hidden_size, hidden_size)
        self.hidden = nn.Embedding(1, hidden_size)

    def forward(self, values: Tensor) -> Tensor:
        """Embed values, shape `(cells, tokens)` to `(cells, tokens, dims)`."""
        seen = self.project(torch.relu(self.expand(values.unsqueeze(-1).to(self.expand.weight.dtype))))
        return torch.where((values == HIDDEN_VALUE).unsqueeze(-1), self.hidden.weight[0], seen)
