"""TranscriptFormer: genes enter as the language-model embeddings of their proteins, and with their counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from sfm.nn.architectures._architecture import Architecture
from sfm.nn.architectures._proteins import embed_distinct

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn._config import CellConfig
    from sfm.nn._model import CellModel


class ProteinEmbedder(nn.Module):
    """Genes by the language-model embedding of their proteins, which is never trained, and annotations by a table.

    Token ids from `gene_rows` on stand for annotations, such as the assay.
    """

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        settings, size = config.architecture_settings, config.hidden_size
        self.n_genes: int = settings["gene_rows"]
        self.genes = nn.Embedding(self.n_genes, settings["protein_size"])
        self.genes.weight.requires_grad = False
        self.is_projected = not settings.get("protein_means", False)
        if self.is_projected:
            self.context = nn.Embedding(settings["context_rows"], size)
            dropout = nn.Dropout(config.backbone_config.hidden_dropout_prob)
            self.project = nn.Sequential(
                nn.Linear(settings["protein_size"], size), nn.ReLU(), nn.LayerNorm(size), dropout, nn.Linear(size, size)
            )

    def forward(self, input_ids: Tensor, values: Tensor | None = None, token_type_ids: Tensor | None = None) -> Tensor:
        """Map `(cells, tokens)` to `(cells, tokens, dims)`; counts do not matter here."""
        is_gene = (input_ids < self.n_genes).unsqueeze(-1)
        genes = embed_distinct(self.gene_vectors, input_ids.clamp(max=self.n_genes - 1))
        if not self.is_projected:
            return genes * is_gene
        return genes.where(is_gene, self.context((input_ids - self.n_genes).clamp(min=0)))

    def gene_vectors(self, tokens: Tensor) -> Tensor:
        """Map genes `(...)` to `(..., dims)`."""
        proteins = self.genes(tokens)
        return self.project(proteins) if self.is_projected else proteins


class CountHead(nn.Module):
    """Logits of the share that each gene has of a cell's counts, from the state that predicts it."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.gene_bias = nn.Embedding(config.architecture_settings["gene_rows"], 1)
        self.project = nn.Sequential(
            nn.Linear(2 * size, size // 2), nn.ReLU(), nn.LayerNorm(size // 2), nn.Dropout(0.0), nn.Linear(size // 2, 1)
        )

    def forward(self, states: Tensor, embeddings: Tensor, input_ids: Tensor) -> Tensor:
        """Map states and gene embeddings `(cells, tokens, dims)` and genes `(cells, tokens)` to `(cells, tokens)`."""
        return (self.gene_bias(input_ids) + self.project(torch.cat([states, embeddings], dim=-1))).squeeze(-1)


class NextGeneHead(nn.Module):
    """Logits of the gene that comes next, bent as in training to stay between `softcap` and its negative."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        settings = config.architecture_settings
        size, n_genes = settings["gene_head_size"], settings["gene_rows"]
        self.softcap = config.backbone_config.softcap
        self.project = nn.Sequential(
            nn.Linear(config.hidden_size, size),
            nn.ReLU(),
            nn.LayerNorm(size),
            nn.Dropout(0.0),
            nn.Linear(size, n_genes),
        )

    def forward(self, hidden: Tensor, gene_embedding: Tensor) -> Tensor:
        """Map `(..., dims)` to `(..., gene_rows)`."""
        logits = self.project(hidden)
        return self.softcap * torch.tanh(logits / self.softcap) if self.softcap > 0 else logits


class LengthReadout(nn.Module):
    """Sum over genes divided by the most that a cell can have, so that vectors grow with the genes of a cell."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        settings = config.architecture_settings
        self.n_genes: int = settings["gene_rows"]
        self.longest: int = settings["seq_len"]
        self.special = None if not settings.get("protein_means") else config.special_token_ids
        # Not read here, but by `count_losses`: this is where weights beyond embedder and backbone have a place.
        self.counts = CountHead(config) if settings.get("count_head") else None

    def forward(self, hidden: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map `(cells, tokens, dims)` to `(cells, dims)`."""
        kept = attention_mask.bool() & (input_ids < self.n_genes)
        if self.special is not None:
            kept &= torch.isin(input_ids, torch.tensor(self.special, device=input_ids.device), invert=True)
        kept &= kept.cumsum(dim=1) <= self.longest  # the last gene of a full cell is predicted, but not read
        return hidden.masked_fill(~kept.unsqueeze(-1), 0).sum(dim=1) / self.longest


class NextGeneReadout(nn.Module):
    """Vectors of genes in context: the states that predict them, those of the tokens before, as the authors have it."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        self.special = config.special_token_ids
        self.shift = 0 if config.architecture_settings.get("protein_means") else 1

    def forward(self, hidden: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Map `(cells, tokens, dims)` to `(genes, dims)` and token ids `(genes,)`."""
        special = torch.tensor(self.special, device=input_ids.device)
        genes = input_ids[:, self.shift :]
        is_gene = attention_mask[:, self.shift :].bool() & torch.isin(genes, special, invert=True)
        return hidden[:, : genes.shape[1]][is_gene], genes[is_gene]


def count_losses(
    model: CellModel, states: Tensor, input_ids: Tensor, attention_mask: Tensor, values: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the negative log-likelihood of each gene's count, from the state of the token before it, in nats.

    Counts are taken as Poisson without zeros (softly approximated), around the share of the cell's counts that the
    model gives to each gene, given those before it.

    Parameters
    ----------
    model
        A model of this architecture with its count head.
    states
        What the model made of the tokens, shape `(cells, tokens, dims)`.
    input_ids, attention_mask, values
        The minibatch, shape `(cells, tokens)`.

    Returns
    -------
    Float32 of shape `(cells, tokens - 1)` for all tokens but the first, zero where one is no gene; and which ones are
    genes, same shape.

    Raises
    ------
    ValueError
        If the model has no count head.
    """
    head = getattr(model.readout, "counts", None)
    if head is None:
        msg = "This model has no count head, which the log-likelihood needs. Load a checkpoint of TranscriptFormer."
        raise ValueError(msg)
    settings = model.config.architecture_settings
    is_gene, genes = model.is_gene(input_ids, attention_mask)[:, 1:], input_ids[:, 1:]
    logits = head(states[:, :-1], model.embedder(genes), genes.where(is_gene, 0)).float()
    # Not minus infinity, whose softmax over a cell without genes has no gradient.
    shares = logits.masked_fill(~is_gene, torch.finfo(logits.dtype).min).softmax(dim=1)
    counts = values[:, 1:].float() * is_gene
    mean = shares * counts.sum(dim=1, keepdim=True) + settings["count_epsilon"]
    # The reference compares the last place of a full cell with a count of one.
    is_last = is_gene.cumsum(dim=1) == settings["seq_len"]
    counts = counts.masked_fill(is_last, 1.0).clamp(settings["count_epsilon"], settings["largest_count"])
    losses = F.relu(mean - F.softplus(-mean)) - counts * mean.log() + torch.lgamma(counts + 1)
    return losses.masked_fill(~is_gene, 0), is_gene


def next_gene_loss(  # noqa: PLR0917
    model: CellModel,
    gene_loss: Tensor,
    states: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor,
    values: Tensor,
    is_predicted: Tensor,
) -> Tensor:
    """Return the loss of genes and counts together (Pearce et al. 2025).

    It is the negative log-likelihood of counts plus `gene_loss_weight`, a setting of the published model, times the
    cross-entropy of genes. Both are sums over the predicted tokens of all cells, divided by the number of these: genes,
    and the end of each cell, which has no count. A model without a count head learns genes alone.
    """
    if getattr(model.readout, "counts", None) is None:
        return gene_loss
    losses, _ = count_losses(model, states, input_ids, attention_mask, values)
    of_counts = (losses * is_predicted).sum() / is_predicted.sum().clamp(min=1)
    weight: float = model.config.architecture_settings.get("gene_loss_weight", 1.0)
    return of_counts + weight * gene_loss


def negative_log_likelihood(model: CellModel, input_ids: Tensor, attention_mask: Tensor, values: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of a gene's count in each cell, in nats; the authors call it `llh`.

    Parameters
    ----------
    model
        A model of this architecture with its count head.
    input_ids, attention_mask, values
        A minibatch, shape `(cells, tokens)`.

    Returns
    -------
    Float32 of shape `(cells,)`; NaN for a cell without genes. See :func:`count_losses`.

    Raises
    ------
    ValueError
        If the model has no count head.
    """
    states = model(input_ids, attention_mask, values).last_hidden_state
    losses, is_gene = count_losses(model, states, input_ids, attention_mask, values)
    return losses.sum(dim=1) / is_gene.sum(dim=1)


TRANSCRIPTFORMER = Architecture(
    embedder=ProteinEmbedder,
    readout=LengthReadout,
    gene_readout=NextGeneReadout,
    gene_head=NextGeneHead,
    next_gene_loss=next_gene_loss,
    negative_log_likelihood=negative_log_likelihood,
)
