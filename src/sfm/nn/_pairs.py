"""Pairs of cells: drawing them, and joining two cells into one sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from sfm.nn._masking import IGNORED

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Pairs(NamedTuple):
    """Partner of each cell in a minibatch; `labels` is 1 for the same group, 0 for others, -100 if unknown."""

    partners: Tensor
    labels: Tensor


def sample_pairs(groups: Tensor, *, generator: Generator | None = None) -> Pairs:
    """Draw a partner for each cell of a minibatch: for half of them from the same group, for the others from another.

    A cell without any partner of the wanted kind gets one of the other kind. A cell whose group is unknown, or that has
    no partner at all, is its own partner and has no label.

    Parameters
    ----------
    groups
        Group of each cell (donor, cluster, time step) as a number, -1 if unknown, shape `(cells,)`.
    generator
        Source of randomness, on the device of `groups`.

    Examples
    --------
    >>> import torch
    >>> from sfm.nn import sample_pairs
    >>> pairs = sample_pairs(torch.tensor([0, 0, 1, 1, -1]), generator=torch.Generator().manual_seed(0))
    >>> pairs.labels[4].item(), pairs.partners[4].item()
    (-100, 4)
    """
    n, device = len(groups), groups.device
    known = groups >= 0
    equal = groups.unsqueeze(1) == groups
    usable = known.unsqueeze(1) & known & ~torch.eye(n, dtype=torch.bool, device=device)
    same, other = usable & equal, usable & ~equal  # (cells, partners)

    order = torch.randperm(n, generator=generator, device=device).masked_fill(~known, n).argsort().argsort()
    wants_same = order < (known.sum() + 1) // 2
    takes_same = (wants_same & same.any(dim=1)) | ~other.any(dim=1)
    allowed = torch.where(takes_same.unsqueeze(1), same, other)
    partners = torch.rand(n, n, generator=generator, device=device).masked_fill(~allowed, -1.0).argmax(dim=1)
    has_partner = allowed.any(dim=1)
    alone = torch.arange(n, device=device)
    return Pairs(
        partners=torch.where(has_partner, partners, alone),
        labels=torch.where(has_partner, takes_same.long(), IGNORED),
    )


def join_pairs(
    first: dict[str, Tensor],
    second: dict[str, Tensor],
    *,
    sep_token_id: int,
    cls_token_id: int | None = None,
    pad_token_id: int | None = None,
    max_length: int | None = None,
) -> dict[str, Tensor]:
    """Join two minibatches into one of pairs: `<cls>` and the genes of the first cell, a separator, the second, another.

    Parameters
    ----------
    first
        `input_ids` and `attention_mask`, and `values` where there are any, shape `(cells, tokens)`; padding may be on
        either side.
    second
        The same of the partners, any number of tokens.
    sep_token_id
        Token id after each cell; its value is 0.
    cls_token_id
        Token id that the second cell loses, or `None`.
    pad_token_id
        Token id of padding; `None` if any will do.
    max_length
        Most tokens of a pair. Each cell gets half of them, or what the other does not need; the last genes are cut.

    Returns
    -------
    A minibatch with `token_type_ids`, 0 for the first cell and its separator and 1 for the second, padded on the right.

    Examples
    --------
    >>> import torch
    >>> from sfm.nn import join_pairs
    >>> mask = torch.ones(1, 3, dtype=torch.long)
    >>> first = {"input_ids": torch.tensor([[2, 5, 6]]), "attention_mask": mask}
    >>> second = {"input_ids": torch.tensor([[2, 8, 9]]), "attention_mask": mask}
    >>> join_pairs(first, second, sep_token_id=3, cls_token_id=2)["input_ids"]
    tensor([[2, 5, 6, 3, 8, 9, 3]])
    """
    kept_first = first["attention_mask"].bool()
    kept_second = second["attention_mask"].bool()
    if cls_token_id is not None:
        kept_second = kept_second & (second["input_ids"] != cls_token_id)
    n_first, n_second = kept_first.sum(dim=1), kept_second.sum(dim=1)  # (cells,)
    if max_length is not None:
        room = max_length - 2
        n_first = torch.minimum(n_first, (room - n_second).clamp(min=(room + 1) // 2))
        n_second = torch.minimum(n_second, room - n_first)
    ends = torch.stack([n_first, n_first + n_second + 1], dim=1)  # where the separators stand
    length = int(ends[:, 1].max()) + 1 if len(ends) else 2

    # What is cut or padding goes to an additional column, which is dropped.
    to_first = _targets(kept_first, n_first, start=torch.zeros_like(n_first), trash=length)
    to_second = _targets(kept_second, n_second, start=n_first + 1, trash=length)
    joined: dict[str, Tensor] = {}
    for key in (key for key in ("input_ids", "values") if key in first):
        filler = (pad_token_id or 0) if key == "input_ids" else 0
        tensor = first[key].new_full((len(ends), length + 1), filler)
        tensor.scatter_(1, to_first, first[key]).scatter_(1, to_second, second[key])
        tensor.scatter_(1, ends, sep_token_id if key == "input_ids" else 0)
        joined[key] = tensor[:, :length]
    positions = torch.arange(length, device=ends.device)
    joined["attention_mask"] = (positions <= ends[:, 1:]).to(first["attention_mask"].dtype)
    joined["token_type_ids"] = ((positions > ends[:, :1]) & (positions <= ends[:, 1:])).long()
    return joined


def _targets(kept: Tensor, n_kept: Tensor, *, start: Tensor, trash: int) -> Tensor:
    """Column of each token in the joined sequence, shape `(cells, tokens)`."""
    rank = kept.long().cumsum(dim=1) - 1
    inside = kept & (rank < n_kept.unsqueeze(1))
    return torch.where(inside, rank + start.unsqueeze(1), trash)
