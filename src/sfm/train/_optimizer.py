"""Which weights get which learning rate, and how it changes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from torch import nn


def parameter_groups(
    network: nn.Module, *, lr: float, head_lr: float | None, weight_decay: float
) -> list[dict[str, Any]]:
    """Group the trained weights: those of the head apart, and matrices, which decay, apart from biases and norms."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            in_head = head_lr is not None and not name.startswith("cell.")
            groups.setdefault((in_head, parameter.ndim >= 2), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": head_lr if in_head else lr,
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (in_head, decays), parameters in groups.items()
    ]


def constant(step: int) -> float:
    """Leave the learning rate as it is."""
    return 1.0


def warmup_cosine(total: int, warmup: float, floor: float) -> Callable[[int], float]:
    """Rise linearly in a share `warmup` of all steps, then fall along a cosine to `floor`."""
    rising = max(round(total * warmup), 1)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        progress = min((step - rising) / max(total - rising, 1), 1.0)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    return factor
