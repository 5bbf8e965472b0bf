"""`TrainerState` of a Lightning run, and its way into checkpoints and back."""

from __future__ import annotations

import math
import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from transformers import TrainerState
from transformers.trainer_callback import ExportableState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lightning.pytorch import Trainer
    from transformers import TrainerCallback, TrainingArguments


def process_state(trainer: Trainer) -> TrainerState:
    """State before training: nothing but who this process is."""
    return TrainerState(is_local_process_zero=trainer.local_rank == 0, is_world_process_zero=trainer.is_global_zero)


def training_state(trainer: Trainer, args: TrainingArguments, restored: dict[str, Any] | None = None) -> TrainerState:
    """State at the start of training, new or continued from a checkpoint."""
    known = {field.name for field in fields(TrainerState)}
    state = TrainerState(**{name: value for name, value in (restored or {}).items() if name in known})
    state.max_steps, state.num_train_epochs = planned_steps(trainer), planned_epochs(trainer)
    state.compute_steps(args, state.max_steps)
    state.train_batch_size = args.per_device_train_batch_size
    state.global_step = trainer.global_step
    state.is_local_process_zero, state.is_world_process_zero = trainer.local_rank == 0, trainer.is_global_zero
    return state


def planned_steps(trainer: Trainer) -> int:
    """Optimizer steps that the trainer is going to take; a very large number if nothing limits them."""
    steps = trainer.estimated_stepping_batches
    return sys.maxsize if steps < 0 or math.isinf(steps) else int(steps)


def planned_epochs(trainer: Trainer) -> int:
    """Epochs that the trainer is going to begin."""
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        return trainer.max_epochs
    per_epoch = steps_per_epoch(trainer)
    return 1 if math.isinf(per_epoch) else math.ceil(planned_steps(trainer) / per_epoch)


def steps_per_epoch(trainer: Trainer) -> float:
    """Optimizer steps in an epoch; infinite where the loader has no length."""
    batches = trainer.num_training_batches
    return batches if math.isinf(batches) else max(math.ceil(batches / trainer.accumulate_grad_batches), 1)


def epoch_of(trainer: Trainer, batch_idx: int) -> float:
    """Epochs trained so far, in fractions, after a minibatch."""
    batches = trainer.num_training_batches
    return trainer.current_epoch + (0.0 if math.isinf(batches) else (batch_idx + 1) / batches)


def exported(parts: Iterable[Any]) -> Any:
    """What callbacks (and the control) that have a state want kept, by class name."""
    stateful: Any = [part for part in parts if isinstance(part, ExportableState)]
    return TrainerState(stateful_callbacks=stateful).stateful_callbacks


def restore_callbacks(callbacks: Iterable[TrainerCallback], kept: dict[str, Any]) -> None:
    """Give callbacks back what they had counted; their settings stay those they were made with."""
    waiting = {name: list(states) if isinstance(states, list) else [states] for name, states in kept.items()}
    for callback in callbacks:
        states = waiting.get(type(callback).__name__)
        if states and isinstance(callback, ExportableState):
            for name, value in states.pop(0).get("attributes", {}).items():
                setattr(callback, name, value)
