from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from scvi.train import TrainingPlan

if TYPE_CHECKING:
    from scvi.module.base import BaseModuleClass
    from torch import nn


class CellTrainingPlan(TrainingPlan):
    """AdamW with linear warm-up and cosine decay, stepped once per optimizer step.

    Parameters
    ----------
    module
        The module to train.
    lr
        Highest learning rate.
    weight_decay
        Weight decay of matrices; biases, norms and embeddings of positions have none.
    warmup
        Share of all steps in which the learning rate rises.
    min_lr_ratio
        Learning rate at the end, as a share of `lr`.
    betas
        Decay rates of AdamW's moments.
    eps
        Term added to AdamW's denominator.
    kwargs
        Whatever :class:`scvi.train.TrainingPlan` takes.
    """

    def __init__(
        self,
        module: BaseModuleClass,
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        warmup: float = 0.1,
        min_lr_ratio: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        **kwargs: Any,
    ) -> None:
        super().__init__(module, optimizer="AdamW", lr=lr, weight_decay=weight_decay, eps=eps, **kwargs)
        self.warmup = warmup
        self.min_lr_ratio = min_lr_ratio
        self.betas = betas

    def on_fit_start(self) -> None:
        """Set the head to gene frequencies before the very first step."""
        start = getattr(self.module, "start_from_frequencies", None)
        if start is None or bool(self.module.network.head.bias.any()):
            return
        counts = self.trainer.datamodule.token_counts(self.module.network.config.vocab_size)
        start(torch.from_numpy(counts).to(self.device))

    def configure_optimizers(self) -> dict[str, Any]:
        """Return the optimizer and its schedule."""
        groups = _decay_groups(self.module, self.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps)
        total = self.trainer.estimated_stepping_batches
        factor = _constant if math.isinf(total) else _warmup_cosine(int(total), self.warmup, self.min_lr_ratio)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def _constant(step: int) -> float:
    return 1.0


def _warmup_cosine(total: int, warmup: float, floor: float) -> Any:
    rising = max(round(total * warmup), 1)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        progress = min((step - rising) / max(total - rising, 1), 1.0)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    return factor
