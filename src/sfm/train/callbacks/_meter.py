from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils import get_total_norm

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lightning.pytorch import Trainer
    from torch import Tensor, nn


class StepMeter:
    """Loss, gradient norm, learning rate, tokens and operations of the steps, kept on the device until asked for.

    Parameters
    ----------
    network
        The network that is trained.
    padding
        Count padding as tokens, too.
    """

    def __init__(self, network: nn.Module, *, padding: bool = False) -> None:
        self.padding = padding
        self.grad_norm: Tensor | None = None
        self.learning_rate: float | None = None
        self._flops_per_token = 6 * _n_parameters(network)
        self._micro_losses: list[Tensor] = []
        self._loss_sum: Tensor | None = None
        self._n_steps = 0
        self._tokens: list[Tensor] = []
        self._flos = 0
        self.total_loss = 0.0

    def add(self, outputs: Any, minibatch: Any, *, accumulated: int) -> None:
        """Take in a minibatch; Lightning has divided its loss by the minibatches `accumulated` in a step."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, torch.Tensor):
            self._micro_losses.append(loss.detach() * accumulated)
        if isinstance(minibatch, dict) and "input_ids" in minibatch:
            self._tokens.append(_n_tokens(minibatch, padding=self.padding))
            self._flos += self._flops_per_token * minibatch["input_ids"].numel()

    def measure_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Take in the norm of all gradients, as it is before clipping."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if gradients:
            self.grad_norm = get_total_norm(gradients)

    def end_step(self) -> None:
        """Close an optimizer step: its loss is the mean over its minibatches."""
        if self._micro_losses:
            loss = torch.stack(self._micro_losses).mean()
            self._loss_sum = loss if self._loss_sum is None else self._loss_sum + loss
            self._n_steps += 1
            self._micro_losses = []

    def pop_counts(self, trainer: Trainer) -> tuple[int, float]:
        """Tokens and floating point operations since the last call, summed over processes."""
        counts = torch.tensor([float(sum(map(int, self._tokens))), float(self._flos)], dtype=torch.float64)
        self._tokens, self._flos = [], 0
        if trainer.world_size > 1:
            counts = trainer.strategy.reduce(counts.to(trainer.strategy.root_device), reduce_op="sum").cpu()
        return int(counts[0]), float(counts[1])

    def pop_loss(self, trainer: Trainer) -> float | None:
        """Mean loss of the steps since the last call, over all processes; `None` without a step."""
        if self._loss_sum is None:
            return None
        mean, n_steps = self._loss_sum / self._n_steps, self._n_steps
        self._loss_sum, self._n_steps = None, 0
        if trainer.world_size > 1:
            mean = trainer.strategy.reduce(mean, reduce_op="mean")
        self.total_loss += float(mean) * n_steps
        return float(mean)


def _n_tokens(minibatch: Mapping[str, Tensor], *, padding: bool) -> Tensor:
    mask = minibatch.get("attention_mask")
    if padding or mask is None:
        return torch.tensor(minibatch["input_ids"].numel())
    return mask.sum()


def _n_parameters(network: nn.Module) -> int:
    """Parameters that are multiplied with every token: all but embeddings, as transformers counts them."""
    embeddings = {id(p) for module in network.modules() if isinstance(module, torch.nn.Embedding) for p in _own(module)}
    return sum(p.numel() for p in network.parameters() if id(p) not in embeddings)


def _own(module: nn.Module) -> Iterable[nn.Parameter]:
    return module.parameters(recurse=False)
