"""Hiding genes and values for masked training."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Generator, Tensor

#: Value that stands for a hidden expression value; real values are never negative.
HIDDEN_VALUE = -1.0

IGNORED = -100


class MaskedTokens(NamedTuple):
    """A minibatch with hidden genes; `labels` holds the hidden token ids, -100 elsewhere."""

    input_ids: Tensor
    values: Tensor | None
    labels: Tensor


class MaskedValues(NamedTuple):
    """A minibatch with hidden values; `labels` holds what was hidden, NaN elsewhere."""

    values: Tensor
    labels: Tensor


def mask_tokens(
    input_ids: Tensor,
    attention_mask: Tensor,
    values: Tensor | None = None,
    *,
    vocab_size: int,
    mask_token_id: int,
    special_token_ids: Sequence[int],
    probability: float = 0.15,
    generator: Generator | None = None,
) -> MaskedTokens:
    """Choose genes to predict: of those, 80 % become the mask token, 10 % a random gene, 10 % stay.

    The expression value of every chosen gene is hidden too, so that it cannot give the gene away. At least one gene is
    chosen in every cell that has one. Everything happens on the device of `input_ids`. The scheme is that of
    BERT (Devlin et al. 2019).

    Parameters
    ----------
    input_ids
        Token ids, shape `(cells, tokens)`.
    attention_mask
        One where a token stands, same shape.
    values
        Expression values, same shape, or `None`.
    vocab_size
        Number of token ids.
    mask_token_id
        Token id that replaces hidden genes.
    special_token_ids
        Token ids that are no genes: never chosen, never used as a random replacement.
    probability
        Share of genes to choose.
    generator
        Source of randomness, on the device of `input_ids`.
    """
    device = input_ids.device
    special = torch.zeros(vocab_size, dtype=torch.bool, device=device)
    special[list(special_token_ids)] = True
    chosen = _choose(attention_mask.bool() & ~special[input_ids], probability, generator)

    action = torch.rand(input_ids.shape, generator=generator, device=device)
    gene_tokens = torch.nonzero(~special).squeeze(1)
    pick = torch.randint(len(gene_tokens), input_ids.shape, generator=generator, device=device)
    masked = torch.where(chosen & (action < 0.8), mask_token_id, input_ids)
    masked = torch.where(chosen & (action >= 0.8) & (action < 0.9), gene_tokens[pick], masked)
    hidden = None if values is None else values.masked_fill(chosen, HIDDEN_VALUE)
    return MaskedTokens(masked, hidden, torch.where(chosen, input_ids, IGNORED))


def mask_values(
    input_ids: Tensor,
    attention_mask: Tensor,
    values: Tensor,
    counts: Tensor | None = None,
    *,
    special_token_ids: Sequence[int],
    probability: float = 0.15,
    generator: Generator | None = None,
) -> MaskedValues:
    """Choose genes whose expression is to be predicted, and hide their values; the genes stay visible.

    At least one gene is chosen in every cell that has one. Everything happens on the device of `input_ids`.

    Parameters
    ----------
    input_ids
        Token ids, shape `(cells, tokens)`.
    attention_mask
        One where a token stands, same shape.
    values
        Expression values, same shape.
    counts
        What to predict instead of `values`, same shape: counts, for the likelihoods of counts
        (see :func:`counts_from_values`).
    special_token_ids
        Token ids that are no genes: never chosen.
    probability
        Share of genes to choose.
    generator
        Source of randomness, on the device of `input_ids`.

    Returns
    -------
    Values with the chosen ones replaced by :data:`HIDDEN_VALUE`, and the labels for :class:`CellForMaskedValue`.
    """
    special = torch.tensor(list(special_token_ids), device=input_ids.device)
    genes = attention_mask.bool() & torch.isin(input_ids, special, invert=True)
    chosen = _choose(genes, probability, generator)
    target = (values if counts is None else counts).float()
    return MaskedValues(values.masked_fill(chosen, HIDDEN_VALUE), target.masked_fill(~chosen, float("nan")))


def counts_from_values(values: Tensor, library_size: Tensor) -> Tensor:
    """Turn the values of :class:`sfm.tokenizers.ValueTokenizer` back into counts.

    Parameters
    ----------
    values
        `log1p` of counts per ten thousand, shape `(cells, tokens)`.
    library_size
        Counts of each cell over the genes of the vocabulary, shape `(cells,)`.

    Returns
    -------
    Whole counts, same shape as `values`; hidden values give zero.

    Examples
    --------
    >>> import torch
    >>> from sfm.nn import counts_from_values
    >>> counts_from_values(torch.log1p(torch.tensor([[2500.0, 7500.0]])), torch.tensor([4.0]))
    tensor([[1., 3.]])
    """
    return (torch.expm1(values.double().clamp(min=0)) * library_size.double().unsqueeze(1) / 1e4).round().float()


def _choose(genes: Tensor, probability: float, generator: Generator | None) -> Tensor:
    draw = torch.rand(genes.shape, generator=generator, device=genes.device)
    # The gene with the smallest draw is chosen in any case: a short cell would otherwise train on nothing.
    first = draw.masked_fill(~genes, 2.0).argmin(dim=1, keepdim=True)
    return genes & ((draw < probability) | torch.zeros_like(genes).scatter_(1, first, value=True))
