"""Stopping at the first loss or gradient that is not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sfm.train._checkpoint import TrainingCheckpoint, checkpoints_in

if TYPE_CHECKING:
    from torch import Tensor

_SHOWN = 5


class NonFiniteLossError(FloatingPointError):
    """The loss or the gradient is NaN or infinite; the weights are those before the step."""


def refuse_infinite(value: Tensor, what: str, *, plan: Any, minibatch: dict[str, Tensor] | None = None) -> None:
    """Raise unless `value` is finite, and say where training stands."""
    if bool(torch.isfinite(value).all()):
        return
    cells = "" if minibatch is None else _describe_cells(plan, minibatch)
    msg = (
        f"Training stopped in epoch {plan.current_epoch}, step {plan.global_step}: the {what} is {float(value)}.{cells} "
        f"{_describe_checkpoint(plan.trainer)} A lower learning rate (plan_kwargs={{'lr': {plan.lr / 10:.0e}}}), a "
        "longer warm-up (plan_kwargs={'warmup': 0.2}) or precision='32-true' may help."
    )
    raise NonFiniteLossError(msg)


def _describe_cells(plan: Any, minibatch: dict[str, Tensor]) -> str:
    names = getattr(plan.trainer.datamodule, "obs_names", None)
    if names is None or "cell_index" not in minibatch:
        return ""
    rows = minibatch["cell_index"].tolist()
    listed = ", ".join(repr(str(name)) for name in names[rows[:_SHOWN]])
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return f" The minibatch held the cells {listed}{more}."


def _describe_checkpoint(trainer: Any) -> str:
    writers = [callback for callback in trainer.callbacks if isinstance(callback, TrainingCheckpoint)]
    written = [path for writer in writers for path in checkpoints_in(writer.directory)]
    if written:
        return f"The last good checkpoint is {str(written[-1])!r}: train on from it with resume={str(written[-1])!r}."
    return "No checkpoint has been written (pass checkpoint_dir=)."
