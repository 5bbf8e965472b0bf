"""The loss of a minibatch, computed on a few cells at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn


def loss_by_parts(
    network: nn.Module, example: dict[str, Tensor], n_targets: Tensor, *, max_tokens: int | None
) -> Tensor:
    """Mean loss over the targets of all cells, equal to `network(**example).loss`.

    Only one part of the cells is held in memory at a time, without padding between parts: the gradient of each part is
    taken at once, and `backward` hands out their sum.

    Parameters
    ----------
    network
        A model whose output has a `loss`, the mean over targets.
    example
        Its input, padded on the right: tensors of shape `(cells, tokens)`, or `(cells,)`.
    n_targets
        How many targets each cell has, shape `(cells,)`.
    max_tokens
        Most tokens of a part, padding included; `None` for a single part.
    """
    if max_tokens is None:
        return network(**example).loss
    counts, total = n_targets.tolist(), max(int(n_targets.sum()), 1)
    parts = [
        (_cells_of(example, start, stop, longest), sum(counts[start:stop]) / total)
        for start, stop, longest in _parts(example["attention_mask"], max_tokens)
        if any(counts[start:stop])
    ]
    if len(parts) <= 1 or not torch.is_grad_enabled():
        losses = [network(**part).loss * share for part, share in parts]
        return torch.stack(losses).sum() if losses else network(**example).loss
    parameters = [p for p in network.parameters() if p.requires_grad]
    loss, gradients = _loss_and_gradients(network, parts, parameters)
    return _KnownGradients.apply(loss, gradients, *parameters)


def example_parts(example: dict[str, Tensor], *, max_tokens: int | None) -> list[dict[str, Tensor]]:
    """Split the input of a network into parts with some of the cells each, in the order of the cells."""
    if max_tokens is None:
        return [example]
    parts = _parts(example["attention_mask"], max_tokens)
    return [_cells_of(example, start, stop, longest) for start, stop, longest in parts]


def _parts(attention_mask: Tensor, max_tokens: int) -> Iterator[tuple[int, int, int]]:
    """Yield `(start, stop, longest)` of neighbouring cells; a cell above `max_tokens` stands alone."""
    lengths = attention_mask.sum(dim=1).clamp(min=1).tolist()
    start = longest = 0
    for i, length in enumerate(lengths):
        if i > start and max(longest, length) * (i + 1 - start) > max_tokens:
            yield start, i, longest
            start, longest = i, 0
        longest = max(longest, length)
    yield start, len(lengths), longest


def _cells_of(example: dict[str, Tensor], start: int, stop: int, longest: int) -> dict[str, Tensor]:
    n_tokens = example["attention_mask"].shape[1]
    return {
        key: tensor[start:stop, :longest] if tensor.ndim > 1 and tensor.shape[1] == n_tokens else tensor[start:stop]
        for key, tensor in example.items()
    }


def _loss_and_gradients(
    network: nn.Module, parts: list[tuple[dict[str, Tensor], float]], parameters: list[nn.Parameter]
) -> tuple[Tensor, list[Tensor | None]]:
    loss: Any = 0.0
    sums: list[Tensor | None] = [None] * len(parameters)
    for part, share in parts:
        part_loss = network(**part).loss * share
        loss = loss + part_loss.detach()
        for i, gradient in enumerate(torch.autograd.grad(part_loss, parameters, allow_unused=True)):
            if gradient is not None:
                sums[i] = gradient if sums[i] is None else sums[i].add_(gradient)  # type: ignore[union-attr]
    return loss, sums


class _KnownGradients(torch.autograd.Function):
    """A loss whose gradients have been computed; accumulation, clipping and DDP see an ordinary backward pass."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor | None], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        # Let go of them, so that they become the gradients themselves instead of being copied.
        gradients, ctx.gradients = ctx.gradients, None
        return None, None, *(None if gradient is None else gradient.mul_(grad_output) for gradient in gradients)
