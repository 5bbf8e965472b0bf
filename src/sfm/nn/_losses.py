"""Losses that are defined on any minibatch: means over what is labelled, zero where nothing is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from sfm.nn._masking import IGNORED

if TYPE_CHECKING:
    from torch import Tensor


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats over the labels that are not -100, in float32 whatever the precision around it."""
    flat, targets = logits.reshape(-1, logits.shape[-1]).float(), labels.reshape(-1)
    total = F.cross_entropy(flat, targets, ignore_index=IGNORED, reduction="sum")
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


def mean_binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy over the labels that are not NaN, in float32."""
    losses = F.binary_cross_entropy_with_logits(logits.float(), labels.float().nan_to_num(), reduction="none")
    return mean_over_known(losses, labels)
