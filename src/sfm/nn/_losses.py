"""Losses that are defined on any minibatch: means over what is labelled, zero where nothing is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from sfm.nn._masking import IGNORED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def mean_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    label_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean cross-entropy in nats over the labels that are not -100, in float32 whatever the precision around it.

    The sum is that of :func:`torch.nn.functional.cross_entropy`; it is divided by the number of labels, and not by the
    sum of their weights as there, so that means over parts of a minibatch add up by their shares of the labels.
    """
    flat, targets = logits.reshape(-1, logits.shape[-1]).float(), labels.reshape(-1)
    total = F.cross_entropy(
        flat,
        targets,
        weight=None if label_weights is None else flat.new_tensor(label_weights),
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    return total / (targets != IGNORED).sum().clamp(min=1)


def mean_over_known(losses: Tensor, labels: Tensor) -> Tensor:
    """Mean of elementwise losses where the labels are not NaN."""
    known = ~torch.isnan(labels)
    return losses.masked_fill(~known, 0).sum() / known.sum().clamp(min=1)


def mean_squared_error(prediction: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error over the labels that are not NaN, in float32."""
    # The label is replaced before the arithmetic: a NaN would come back in the gradient even where it is masked.
    target = labels.float().nan_to_num()
    return mean_over_known((prediction.float() - target).square(), labels)


def mean_binary_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    label_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean binary cross-entropy over the labels that are not NaN, in float32.

    Smoothed targets are drawn towards one half, and each label has its weight.
    """
    target = labels.float().nan_to_num() * (1 - label_smoothing) + label_smoothing / 2
    weight = None if label_weights is None else logits.new_tensor(label_weights, dtype=torch.float32)
    losses = F.binary_cross_entropy_with_logits(logits.float(), target, weight=weight, reduction="none")
    return mean_over_known(losses, labels)
