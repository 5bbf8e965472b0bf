from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerControl, integrations
from transformers.trainer_callback import CallbackHandler
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, speed_metrics

from sfm.train.callbacks._arguments import make_arguments
from sfm.train.callbacks._checkpoint import load_best, save_checkpoint
from sfm.train.callbacks._flow import ValidationSchedule, agree, can_validate, ends_epoch, stop
from sfm.train.callbacks._meter import StepMeter
from sfm.train.callbacks._metrics import metric_of
from sfm.train.callbacks._state import epoch_of, exported, process_state, restore_callbacks, training_state

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import nn
    from transformers import TrainerCallback, TrainingArguments


class TransformersRun:
    """One run of a Lightning trainer, as transformers' callbacks see it: the order of events and what follows on each.

    Parameters
    ----------
    trainer
        The Lightning trainer.
    module
        The Lightning module.
    callbacks
        Callbacks, in the order in which they are called.
    given
        Settings that the user chose.
    output_dir
        Folder that the user chose.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        callbacks: list[TrainerCallback],
        given: TrainingArguments | dict[str, Any] | None,
        output_dir: str | None,
    ) -> None:
        self.trainer, self.module = trainer, module
        self.validates = can_validate(trainer)
        self.args = make_arguments(trainer, given, output_dir=output_dir, validates=self.validates)
        self.control = TrainerControl()
        self.state = process_state(trainer)
        self.meter = StepMeter(_network(module), padding=self.args.include_num_input_tokens_seen == "all")
        optimizer = trainer.optimizers[0] if trainer.optimizers else None
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        self.handler = CallbackHandler(callbacks, _network(module), None, optimizer, next(iter(schedules), None))
        self.handler.train_dataloader = trainer.train_dataloader
        self._schedule = ValidationSchedule()
        self._in_epoch = self._in_step = self._epoch_end_waits = False
        self._began = time.time()
        self._first_step = self._logged_step = self._evaluated_step = 0
        self._first_tokens = 0
        if trainer.is_global_zero and (output_dir is not None or any(map(_writes, callbacks))):
            Path(str(self.args.output_dir)).mkdir(parents=True, exist_ok=True)
        self.fire("init_end")

    def fire(self, event: str, **kwargs: Any) -> None:
        """Call `on_<event>` of every callback."""
        self.control = getattr(self.handler, f"on_{event}")(self.args, self.state, self.control, **kwargs)

    def begin(self, restored: dict[str, Any] | None) -> None:
        """Begin or resume training."""
        self.state = training_state(self.trainer, self.args, restored)
        kept: Any = self.state.stateful_callbacks
        restore_callbacks(self.handler.callbacks, kept)
        self._first_step = self._logged_step = self.state.global_step
        self._first_tokens = self.state.num_input_tokens_seen
        self._evaluated_step = -1
        self.fire("train_begin")

    def begin_epoch(self) -> None:
        """Begin an epoch, unless Lightning says so twice."""
        if not self._in_epoch:
            self._in_epoch, self._in_step = True, False
            self.fire("epoch_begin")

    def begin_minibatch(self) -> None:
        """Begin a minibatch, and a step with the first one that is accumulated."""
        self._schedule.resume(self.trainer)
        self.begin_epoch()
        if not self._in_step:
            self._in_step = True
            self.fire("step_begin")

    def end_minibatch(self, outputs: Any, minibatch: Any, batch_idx: int) -> None:
        """End a minibatch, and the step and the epoch if it was their last."""
        self.meter.add(outputs, minibatch, accumulated=self.trainer.accumulate_grad_batches)
        waits = False
        if self.trainer.global_step == self.state.global_step:
            self.fire("substep_end")
            agree(self.trainer, self.control)
        else:
            waits = self._end_step(batch_idx)
        stop(self.trainer, self.control, planned=self.state.max_steps)
        if ends_epoch(self.trainer):
            self._epoch_end_waits = waits
            if not waits:
                self.end_epoch(may_validate=True)

    def end_epoch(self, *, may_validate: bool) -> None:
        """End an epoch, unless that was done."""
        if self._in_epoch:
            self._in_epoch = False
            self.fire("epoch_end")
            agree(self.trainer, self.control)
            self._follow(may_validate=may_validate)
            stop(self.trainer, self.control, planned=self.state.max_steps)

    def end_validation(self, metrics: dict[str, float], *, in_training: bool) -> None:
        """Report a validation, and do what waited for it."""
        self._schedule.resume(self.trainer)
        self._evaluated_step = self.state.global_step
        self.log(metrics)
        self.fire("evaluate", metrics=metrics)
        if not in_training:
            return
        is_best = self._note_best(metrics)
        if self.args.save_strategy == SaveStrategy.BEST:
            self.control.should_save = is_best
        agree(self.trainer, self.control)
        self._save_if_asked()
        stop(self.trainer, self.control, planned=self.state.max_steps)
        if self._epoch_end_waits:
            self._epoch_end_waits = False
            self.end_epoch(may_validate=False)

    def end(self) -> None:
        """Report the whole training, and take over the best weights if that is wanted."""
        self.meter.pop_loss(self.trainer)
        steps = self.state.global_step - self._first_step
        summary = speed_metrics("train", self._began, num_steps=steps)
        summary |= {"total_flos": self.state.total_flos, "train_loss": self.meter.total_loss / max(steps, 1)}
        self.log(summary)
        if self.args.load_best_model_at_end:
            load_best(self.module, self.state)
        self.fire("train_end")

    def log(self, logs: dict[str, Any], *, speed: bool = False) -> None:
        """Add to the history and call `on_log`."""
        logs["epoch"] = self.state.epoch
        if self.args.include_num_input_tokens_seen != "no":
            logs["num_input_tokens_seen"] = self.state.num_input_tokens_seen
            if speed:
                tokens = self.state.num_input_tokens_seen - self._first_tokens
                logs |= speed_metrics("train", self._began, num_tokens=tokens)
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.fire("log", logs=logs)

    def log_epoch(self, metrics: dict[str, float]) -> None:
        """Log what the training plan has computed over an epoch, unless there is to be no logging."""
        metrics = {name: value for name, value in metrics.items() if not name.endswith("_step")}
        if metrics and self.args.logging_strategy != IntervalStrategy.NO:
            self.log(metrics)

    def plain_state(self) -> dict[str, Any]:
        """State for a checkpoint, with that of the callbacks."""
        self.state.stateful_callbacks = exported([*self.handler.callbacks, self.control])
        return asdict(self.state)

    def _end_step(self, batch_idx: int) -> bool:
        self._in_step = False
        self.state.global_step = self.trainer.global_step
        self.state.epoch = epoch_of(self.trainer, batch_idx)
        self.meter.end_step()
        tokens, operations = self.meter.pop_counts(self.trainer)
        self.state.total_flos += operations
        if self.args.include_num_input_tokens_seen != "no":
            self.state.num_input_tokens_seen += tokens
        self.fire("step_end")
        agree(self.trainer, self.control)
        return self._follow(may_validate=True)

    def _follow(self, *, may_validate: bool) -> bool:
        """Log, validate and save as asked; returns whether a validation is to come, which saving waits for."""
        if self.control.should_log and self.state.global_step > self._logged_step:
            self._log_training()
        if self.control.should_evaluate:
            # Once per step is enough: the weights have not changed since.
            if may_validate and self.validates and self.state.global_step != self._evaluated_step:
                self._schedule.validate_now(self.trainer)
                return True
            self.control.should_evaluate = False
        self._save_if_asked()
        return False

    def _log_training(self) -> None:
        self._logged_step = self.state.global_step
        loss, rate = self.meter.pop_loss(self.trainer), self.meter.learning_rate
        norm = getattr(self.module, "grad_norm", self.meter.grad_norm)
        found = {"loss": loss, "grad_norm": norm, "learning_rate": rate}
        self.log({name: float(value) for name, value in found.items() if value is not None}, speed=True)

    def _save_if_asked(self) -> None:
        if self.control.should_save:
            save_checkpoint(self.trainer, self.args, self.state)
            self.fire("save")

    def _note_best(self, metrics: dict[str, float]) -> bool:
        name, best = self.args.metric_for_best_model, self.state.best_metric
        value = None if name is None else metric_of(metrics, name)
        if value is None:
            return False
        if best is not None and not (value > best if self.args.greater_is_better else value < best):
            return False
        self.state.best_metric = value
        if self.args.save_strategy != SaveStrategy.NO:
            self.state.best_global_step = self.state.global_step
        return True


def _network(module: LightningModule) -> nn.Module:
    inner = getattr(module, "module", module)
    return getattr(inner, "network", inner)


def _writes(callback: TrainerCallback) -> bool:
    return isinstance(callback, tuple(integrations.integration_utils.INTEGRATION_TO_CALLBACK.values()))
