"""scFoundation: soft bins of expression plus a vector per gene, and pooling that looks at the read depths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from sfm.nn._masking import HIDDEN_VALUE
from sfm.nn._pooling import pool
from sfm.nn.architectures._architecture import Architecture
from sfm.nn.architectures._performer import GeneDecoder

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn._config import CellConfig
    from sfm.nn._model import CellModel


class SoftBins(nn.Module):
    """A mean of bin vectors, weighted by a small network on the value."""

    def __init__(self, n_bins: int, alpha: float, hidden_size: int) -> None:
        super().__init__()
        self.alpha = alpha
        self.expand = nn.Linear(1, n_bins)
        self.mix = nn.Linear(n_bins, n_bins)
        self.bins = nn.Embedding(n_bins, hidden_size)

    def forward(self, values: Tensor) -> Tensor:
        """Embed values, shape `(...)` to `(..., dims)`."""
        return self.weights(values) @ self.bins.weight

    def weights(self, values: Tensor) -> Tensor:
        """Weigh the bins, shape `(...)` to `(..., bins)`."""
        hidden = F.leaky_relu(self.expand(values.unsqueeze(-1).to(self.expand.weight.dtype)), 0.1)
        return (self.alpha * hidden + self.mix(hidden)).softmax(dim=-1)


class ScFoundationEmbedder(nn.Module):
    """Sum of the vector of a gene and that of its expression."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        settings = config.architecture_settings
        self.genes = nn.Embedding(config.vocab_size, config.hidden_size)
        self.values = SoftBins(settings["n_bins"], settings["bin_alpha"], config.hidden_size)
        self.hidden = nn.Embedding(1, config.hidden_size)
        self.n_genes: int = settings["n_genes"]

    def forward(self, input_ids: Tensor, values: Tensor | None = None, token_type_ids: Tensor | None = None) -> Tensor:
        """Embed tokens, `(cells, tokens)` to `(cells, tokens, dims)`."""
        if values is None or token_type_ids is not None:
            msg = (
                "scFoundation embeds expression values and has no token types. Tokenize with the model's own tokenizer."
            )
            raise ValueError(msg)
        # The log of a read depth can be -1 as well.
        is_hidden = (values == HIDDEN_VALUE) & (input_ids < self.n_genes)
        seen = self.values(values)
        return self.genes(input_ids) + torch.where(is_hidden.unsqueeze(-1), self.hidden.weight[0], seen)


class ScFoundationReadout(nn.Module):
    """Pooling of the published model, and its decoder where genes are to be embedded in their cell.

    `"all"` is the vectors of the two read depths, the maximum and the mean over genes; `"max"` the maximum over all.
    """

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        settings = config.architecture_settings
        self.kind: str = settings["cell_pooling"]
        self.target: int = settings["target_id"]
        self.depth: int = settings["depth_id"]
        self.decoder = GeneDecoder(config) if settings.get("decoder") else None

    def forward(self, hidden: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Pool, `(cells, tokens, dims)` to `(cells, dims)` or `(cells, 4 * dims)`."""
        if self.kind == "max":
            return pool(hidden, attention_mask, "max")
        of_target = attention_mask.bool() & (input_ids == self.target)
        of_depth = attention_mask.bool() & (input_ids == self.depth)
        genes = attention_mask.bool() & ~of_target & ~of_depth
        depths = [pool(hidden, mask, "mean") for mask in (of_depth, of_target)]
        return torch.cat([*depths, pool(hidden, genes, "max"), pool(hidden, genes, "mean")], dim=-1)


def _vector_size(config: CellConfig) -> int:
    return config.hidden_size * (4 if config.architecture_settings["cell_pooling"] == "all" else 1)


def contextual_genes(model: CellModel, input_ids: Tensor, attention_mask: Tensor, values: Tensor) -> Tensor:
    """Embed every gene of the vocabulary in its cell, expressed or not.

    Parameters
    ----------
    model
        A scFoundation that was loaded with `part="gene"`.
    input_ids, attention_mask, values
        A minibatch, shape `(cells, tokens)`.

    Returns
    -------
    Gene vectors, shape `(cells, genes, dims)`, in the order of token ids. About 2 GB per cell are needed meanwhile at
    the published size.

    Raises
    ------
    ValueError
        If the model has no decoder.
    """
    decoder = getattr(model.readout, "decoder", None)
    if decoder is None:
        msg = "This model has no decoder, which embeds genes in their cell. Load it with part='gene'."
        raise ValueError(msg)
    encoded = model(input_ids, attention_mask, values).last_hidden_state
    vectors = [
        decoder(model.embedder, *(tensor[i : i + 1] for tensor in (encoded, input_ids, attention_mask)))
        for i in range(len(input_ids))
    ]
    return torch.cat(vectors)[:, : model.embedder.n_genes]


def decoded_genes(
    model: CellModel, input_ids: Tensor, attention_mask: Tensor, values: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Return vectors of all genes of all cells and their token ids, if the model was loaded with `part="gene"`."""
    if getattr(model.readout, "decoder", None) is None:
        return None
    vectors = contextual_genes(model, input_ids, attention_mask, values)  # (cells, genes, dims)
    token_ids = torch.arange(vectors.shape[1], device=vectors.device).repeat(len(vectors))
    return vectors.flatten(0, 1), token_ids


SCFOUNDATION = Architecture(
    embedder=ScFoundationEmbedder,
    readout=ScFoundationReadout,
    vector_size=_vector_size,
    gene_vectors=decoded_genes,
)
