"""Hiding genes for masked training."""

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
    genes = attention_mask.bool() & ~special[input_ids]
    draw = torch.rand(input_ids.shape, generator=generator, device=device)
    chosen = genes & (draw < probability)
    # The gene with the smallest draw is chosen in any case: a short cell would otherwise train on nothing.
    first = draw.masked_fill(~genes, 2.0).argmin(dim=1, keepdim=True)
    chosen |= genes & torch.zeros_like(genes).scatter_(1, first, value=True)

    action = torch.rand(input_ids.shape, generator=generator, device=device)
    gene_tokens = torch.nonzero(~special).squeeze(1)
    pick = torch.randint(len(gene_tokens), input_ids.shape, generator=generator, device=device)
    masked = torch.where(chosen & (action < 0.8), mask_token_id, input_ids)
    masked = torch.where(chosen & (action >= 0.8) & (action < 0.9), gene_tokens[pick], masked)
    hidden = None if values is None else values.masked_fill(chosen, HIDDEN_VALUE)
    return MaskedTokens(masked, hidden, torch.where(chosen, input_ids, IGNORED))
