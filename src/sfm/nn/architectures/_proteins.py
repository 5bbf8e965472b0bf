"""Tables of protein embeddings, from which some published models make the vectors of genes."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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

    Inside :func:`shared_gene_vectors`, once for all minibatches.

    Parameters
    ----------
    embed
        Maps tokens `(...)` to vectors `(..., dims)`, each by itself; a method.
    input_ids
        Token ids, shape `(cells, tokens)`.
    """
    if torch.compiler.is_compiling():  # how many there are is not known before
        return embed(input_ids)
    tables = _tables.get()
    # A GPU projects faster than it has memory to spare.
    if (
        tables is not None
        and torch.is_inference_mode_enabled()
        and input_ids.device.type == "cpu"
        and input_ids.numel()
    ):
        return tables.setdefault(embed, _VectorTable())(embed, input_ids)
    distinct, place = input_ids.unique(return_inverse=True)
    return F.embedding(place, embed(distinct))


_tables: ContextVar[dict[Callable[[Tensor], Tensor], _VectorTable] | None] = ContextVar("_tables", default=None)


@contextmanager
def shared_gene_vectors() -> Iterator[None]:
    """Inside this context, in which no weight may change, keep the vectors of genes from minibatch to minibatch.

    On the CPU and in inference mode alone. They are forgotten at the end of the outermost context.
    """
    if _tables.get() is not None:
        yield
        return
    token = _tables.set({})
    try:
        yield
    finally:
        _tables.reset(token)


class _VectorTable:
    """Vectors of the tokens that were seen so far, in a tensor that doubles when it is full."""

    def __init__(self) -> None:
        self.rows = torch.empty(0, dtype=torch.int64)  # row of each token id, -1 where it has none
        self.vectors = torch.empty(0, 0)
        self.n_known = 0

    def __call__(self, embed: Callable[[Tensor], Tensor], input_ids: Tensor) -> Tensor:
        """Embed tokens, `(...)` to `(..., dims)`."""
        distinct = input_ids.unique()
        missing = max(int(distinct[-1]) + 1 - len(self.rows), 0)
        self.rows = F.pad(self.rows, (0, missing), value=-1)
        new = distinct[self.rows[distinct] < 0]
        if new.numel():
            self._add(new, embed(new))
        return F.embedding(self.rows[input_ids], self.vectors)

    def _add(self, tokens: Tensor, vectors: Tensor) -> None:
        n_known = self.n_known + len(tokens)
        if n_known > len(self.vectors):
            larger = vectors.new_empty(max(n_known, 2 * len(self.vectors)), vectors.shape[1])
            if self.n_known:
                larger[: self.n_known] = self.vectors[: self.n_known]
            self.vectors = larger
        self.vectors[self.n_known : n_known] = vectors
        self.rows[tokens] = torch.arange(self.n_known, n_known)
        self.n_known = n_known
