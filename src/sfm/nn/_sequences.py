"""Adding tokens to padded minibatches, and the labels of next-gene modelling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from sfm.nn._masking import IGNORED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# What has an entry per token; whatever else a minibatch holds is left alone.
_PER_TOKEN = ("input_ids", "attention_mask", "values")


def append_token(minibatch: dict[str, Tensor], token_id: int, *, max_length: int | None = None) -> dict[str, Tensor]:
    """Put a token after the last of each cell, for example `<eos>` in front of next-gene training.

    Parameters
    ----------
    minibatch
        `input_ids` and `attention_mask`, and `values` where there are any, shape `(cells, tokens)`; padding on the
        right.
    token_id
        The token; its value is 0.
    max_length
        Cells of so many tokens or more stay as they are: the tokenizer has cut them, so they do not end there.

    Returns
    -------
    A minibatch of shape `(cells, tokens + 1)`.

    Examples
    --------
    >>> import torch
    >>> from sfm.nn import append_token
    >>> minibatch = {"input_ids": torch.tensor([[2, 5, 0]]), "attention_mask": torch.tensor([[1, 1, 0]])}
    >>> append_token(minibatch, 3)["input_ids"]
    tensor([[2, 5, 3, 0]])
    """
    lengths = minibatch["attention_mask"].sum(dim=1)
    at = lengths.unsqueeze(1)
    grows = torch.ones_like(at, dtype=torch.bool) if max_length is None else at < max_length
    longer = {key: F.pad(tensor, (0, 1)) if key in _PER_TOKEN else tensor for key, tensor in minibatch.items()}
    for key, filler in (("input_ids", token_id), ("attention_mask", 1)):
        old = longer[key].gather(1, at)
        longer[key].scatter_(1, at, torch.where(grows, filler, old))
    return longer


def insert_token(minibatch: dict[str, Tensor], token_ids: Tensor, *, position: int = 1) -> dict[str, Tensor]:
    """Put a token into each cell, for example the condition token that asks a question about it.

    Parameters
    ----------
    minibatch
        `input_ids` and `attention_mask`, and `values` where there are any, shape `(cells, tokens)`; padding on the
        right.
    token_ids
        The token of each cell, shape `(cells,)`; its value is 0.
    position
        Where it goes: by default after the first token, which is `<cls>`.

    Returns
    -------
    A minibatch of shape `(cells, tokens + 1)`.

    Examples
    --------
    >>> import torch
    >>> from sfm.nn import insert_token
    >>> minibatch = {"input_ids": torch.tensor([[2, 5, 0]]), "attention_mask": torch.tensor([[1, 1, 0]])}
    >>> insert_token(minibatch, torch.tensor([7]))["input_ids"]
    tensor([[2, 7, 5, 0]])
    """
    column = token_ids.unsqueeze(1)
    new = {"input_ids": column, "attention_mask": torch.ones_like(column), "values": torch.zeros_like(column)}
    return {
        key: torch.cat([tensor[:, :position], new[key].to(tensor.dtype), tensor[:, position:]], dim=1)
        if key in _PER_TOKEN
        else tensor
        for key, tensor in minibatch.items()
    }


def causal_labels(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the labels of next-gene modelling: the tokens themselves, -100 at padding.

    Parameters
    ----------
    input_ids
        Token ids, shape `(cells, tokens)`.
    attention_mask
        One where a token stands, same shape.

    Returns
    -------
    Labels for :class:`CellForCausalLM`, same shape; the shift by one token is its own concern.
    """
    return input_ids.masked_fill(attention_mask == 0, IGNORED)


def stack_choices(choices: Sequence[dict[str, Tensor]], *, pad_token_id: int | None = None) -> dict[str, Tensor]:
    """Stack minibatches of candidates for :class:`CellForMultipleChoice`.

    Parameters
    ----------
    choices
        One minibatch per choice, each with the same cells in the same order, any number of tokens.
    pad_token_id
        Token id of padding; `None` if any will do.

    Returns
    -------
    A minibatch of shape `(cells, choices, tokens)`, padded on the right.
    """
    width = max(choice["input_ids"].shape[1] for choice in choices)
    fillers = {"input_ids": pad_token_id or 0}
    return {
        key: torch.stack(
            [F.pad(choice[key], (0, width - choice[key].shape[1]), value=fillers.get(key, 0)) for choice in choices],
            dim=1,
        )
        for key in choices[0]
    }
