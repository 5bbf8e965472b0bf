"""Vectors of genes: in the context of their cells, averaged, or as they are before any."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sfm.inference._loop import run_tokens
from sfm.inference._windows import over_windows

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.checkpoints import PretrainedCells
    from sfm.data._stream import CellStream
    from sfm.inference._minibatches import BatchSize
    from sfm.inference._precision import Precision


_DOING = "Embedding genes"


@dataclass(frozen=True, eq=False)
class GeneVectors:
    """A vector for each token id."""

    vectors: np.ndarray
    """Float32 of shape `(n_tokens, n_dims)`; NaN for tokens without one."""
    n_cells: np.ndarray
    """How often each token was averaged over, int64 of shape `(n_tokens,)`."""

    def of(self, token_ids: np.ndarray) -> np.ndarray:
        """Vectors of some tokens, NaN for -1."""
        vectors = self.vectors[token_ids]
        vectors[token_ids < 0] = np.nan
        return vectors


def contextual_gene_vectors(
    pretrained: PretrainedCells,
    stream: CellStream,
    *,
    batch_size: BatchSize = "auto",
    device: str | torch.device = "auto",
    precision: Precision = "auto",
) -> GeneVectors:
    """Average the vector of each gene over the cells that express it.

    Parameters
    ----------
    pretrained
        The model.
    stream
        The cells.
    batch_size, device, precision
        As in :func:`sfm.tl.embed`.
    """
    cell = cell_model(pretrained)
    means = _Means(pretrained.vocabulary.size)

    def add(minibatch: dict[str, Tensor]) -> tuple[Tensor]:
        vectors, token_ids = cell.gene_vectors(**minibatch)
        means.add(vectors, token_ids)
        return (minibatch["attention_mask"].sum(dim=1),)

    options: dict[str, Any] = {"pad_id": pretrained.vocabulary.pad_id, "doing": _DOING, "precision": precision}
    run = partial(run_tokens, cell, add, **options)
    for _ in over_windows(run, cell, stream, doing=_DOING, batch_size=batch_size, device=device):
        pass
    return means.result()


def static_gene_vectors(pretrained: PretrainedCells) -> GeneVectors:
    """Return the vector that the model has for each gene before it sees a cell."""
    cell = cell_model(pretrained)
    token_ids = torch.from_numpy(pretrained.vocabulary.token_ids.astype(np.int64))
    with torch.inference_mode():
        device = cell.get_input_embeddings().weight.device
        found = cell.static_gene_vectors(token_ids.to(device)).float().cpu().numpy()
    vectors = np.full((pretrained.vocabulary.size, found.shape[1]), np.nan, dtype=np.float32)
    vectors[pretrained.vocabulary.token_ids] = found
    return GeneVectors(vectors, np.zeros(len(vectors), dtype=np.int64))


def cell_model(pretrained: PretrainedCells) -> Any:
    """Return the part of a network of sfm.nn that has vectors of genes."""
    from sfm.nn import CellModel

    network: Any = pretrained.model
    network = getattr(network, "cell", network)
    if not isinstance(network, CellModel):
        msg = (
            f"Model {pretrained.name!r} is a {type(network).__name__}, of which sfm knows how it embeds cells, but not "
            "genes. Pass a model of sfm.nn or a published one."
        )
        raise TypeError(msg)
    return network


class _Means:
    """Means per token id, in float64, so that the order of the cells is lost in the rounding to float32."""

    def __init__(self, n_tokens: int) -> None:
        self.n_cells = torch.zeros(n_tokens, dtype=torch.int64)
        self.sums: Tensor | None = None

    def add(self, vectors: Tensor, token_ids: Tensor) -> None:
        if self.sums is None:
            self.sums = torch.zeros(len(self.n_cells), vectors.shape[-1], dtype=torch.float64)
        token_ids = token_ids.cpu()
        self.sums.index_add_(0, token_ids, vectors.float().cpu().double())
        self.n_cells += torch.bincount(token_ids, minlength=len(self.n_cells))

    def result(self) -> GeneVectors:
        sums = torch.zeros(len(self.n_cells), 0) if self.sums is None else self.sums
        means = (sums / self.n_cells.unsqueeze(1)).float()  # 0 / 0 is the NaN of genes that no cell has
        return GeneVectors(means.numpy(), self.n_cells.numpy())
