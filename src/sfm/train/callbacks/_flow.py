"""What a `TrainerControl` asks for, done by a Lightning trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from transformers import TrainerControl

_FLAGS = ("should_training_stop", "should_epoch_stop", "should_save", "should_evaluate", "should_log")
_SCHEDULE = ("check_val_every_n_epoch", "val_check_batch", "_val_check_time_interval")


class ValidationSchedule:
    """Lightning's schedule of validations, and single validations out of turn."""

    def __init__(self) -> None:
        self._usual: dict[str, Any] | None = None

    def validate_now(self, trainer: Trainer) -> None:
        """Let Lightning validate after the current minibatch, from within `on_train_batch_end`."""
        self._usual = {name: getattr(trainer, name) for name in _SCHEDULE if hasattr(trainer, name)}
        due: dict[str, Any] = {
            "check_val_every_n_epoch": 1,
            "val_check_batch": trainer.fit_loop.batch_idx + 1,
            "_val_check_time_interval": None,
        }
        for name in self._usual:
            setattr(trainer, name, due[name])

    def resume(self, trainer: Trainer) -> None:
        """Return to the usual schedule."""
        for name, value in (self._usual or {}).items():
            setattr(trainer, name, value)
        self._usual = None


def can_validate(trainer: Trainer) -> bool:
    """Whether there are a validation step and cells for it."""
    loader = getattr(getattr(trainer, "datamodule", None), "val_dataloader", None)
    return bool(trainer.enable_validation and (loader is None or loader() is not None))


def agree(trainer: Trainer, control: TrainerControl) -> None:
    """Let every process do what one of them asks for; else they would wait for each other."""
    if trainer.world_size > 1:
        asked = torch.tensor([float(getattr(control, flag)) for flag in _FLAGS], device=trainer.strategy.root_device)
        agreed = trainer.strategy.reduce(asked, reduce_op="sum").tolist()
        for flag, votes in zip(_FLAGS, agreed, strict=True):
            setattr(control, flag, votes > 0)


def stop(trainer: Trainer, control: TrainerControl, *, planned: int) -> None:
    """End training or the epoch if that is asked for; the planned last step ends it anyway."""
    if control.should_training_stop and trainer.global_step < planned:
        trainer.should_stop = True
    if control.should_epoch_stop:
        # As Lightning does when `on_train_batch_start` of the module asks to skip the rest of the epoch.
        trainer.fit_loop.epoch_loop.batch_progress.increment_by(0, is_last_batch=True)


def ends_epoch(trainer: Trainer) -> bool:
    """Whether no further minibatch of this epoch follows, asked from within `on_train_batch_end`."""
    loop = trainer.fit_loop.epoch_loop
    if trainer.is_last_batch or loop.batch_progress.current.ready >= trainer.num_training_batches:
        return True
    # In an epoch that was resumed, `done` waits for the validation as well.
    return bool(loop.done) or 0 <= trainer.max_steps <= trainer.global_step
