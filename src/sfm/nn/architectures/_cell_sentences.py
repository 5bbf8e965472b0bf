"""A language model of transformers under the cell interface: its table of words and its output layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import torch
from torch import nn
from torch.nn import functional as F

from sfm.nn.architectures._architecture import Architecture

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn._config import CellConfig


class WordEmbedder(nn.Module):
    """The table of words, scaled as the language model does."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        self.genes = nn.Embedding(config.vocab_size, config.hidden_size)
        self.scale: float = config.architecture_settings["embedding_scale"]

    def forward(self, input_ids: Tensor, values: Tensor | None = None, token_type_ids: Tensor | None = None) -> Tensor:
        """Embed words, `(cells, tokens)` to `(cells, tokens, dims)`; a text has neither values nor segments."""
        return self.genes(input_ids) * self.scale

    def gene_vectors(self, tokens: Tensor) -> NoReturn:
        """Raise, since rows of the table are words."""
        _refuse_genes()


class WordHead(nn.Module):
    """Logits of words; the table of words is the weight, unless the language model has another."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        settings = config.architecture_settings
        self.n_words: int = settings["n_words"]
        self.softcap: float | None = settings["softcap"]
        self.words = None if settings["tied"] else nn.Linear(config.hidden_size, self.n_words, bias=False)

    def forward(self, hidden: Tensor, word_embedding: Tensor) -> Tensor:
        """Map `(..., dims)` to `(..., words)`."""
        # The table may have more rows than there are words, one for each gene.
        weight = word_embedding[: self.n_words] if self.words is None else self.words.weight
        logits = F.linear(hidden, weight)
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap


class NoGenes(nn.Module):
    """Stands where the genes of a cell would get vectors."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()

    def forward(self, hidden: Tensor, input_ids: Tensor, attention_mask: Tensor) -> NoReturn:
        """Raise, since tokens are words."""
        _refuse_genes()


def _refuse_genes() -> NoReturn:
    msg = (
        "A language model has vectors of words, of which a gene may be several, and none of genes. Embed cells instead."
    )
    raise TypeError(msg)


CELL_SENTENCES = Architecture(embedder=WordEmbedder, gene_readout=NoGenes, gene_head=WordHead)
