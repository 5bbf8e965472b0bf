from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch import Callback
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from transformers import DefaultFlowCallback, TrainerState
from transformers.trainer_utils import speed_metrics

from sfm.train.callbacks._hook_docs import describe_hooks
from sfm.train.callbacks._metrics import transformers_name
from sfm.train.callbacks._run import TransformersRun

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from lightning.pytorch import LightningModule, Trainer
    from torch.optim import Optimizer
    from torch.utils.hooks import RemovableHandle
    from transformers import TrainerCallback, TrainingArguments


@describe_hooks
class TrainerCallbackAdapter(Callback):
    """Drives transformers' callbacks from a Lightning trainer.

    The callbacks get the events of :class:`transformers.Trainer` in its order, `TrainingArguments` that say what the
    Lightning trainer does, a live `TrainerState` that every checkpoint keeps, and a `TrainerControl` that is obeyed.
    A :class:`transformers.DefaultFlowCallback` is put first unless there is one.

    Parameters
    ----------
    callbacks
        The transformers callbacks, in the order in which they are called.
    training_arguments
        Settings of logging, evaluation and saving, as a dict or as `TrainingArguments`. What the trainer and the
        training plan decide, such as epochs or the learning rate, is filled in; setting it here to anything else is an
        error.
    output_dir
        Where the callbacks write. Default: that of `training_arguments`, else the trainer's `default_root_dir`.
    """

    def __init__(
        self,
        callbacks: Iterable[TrainerCallback],
        *,
        training_arguments: TrainingArguments | dict[str, Any] | None = None,
        output_dir: str | Path | None = None,
    ) -> None:
        self.callbacks = list(callbacks)
        if not any(isinstance(callback, DefaultFlowCallback) for callback in self.callbacks):
            self.callbacks.insert(0, DefaultFlowCallback())
        self._given = training_arguments
        self._output_dir = None if output_dir is None else str(output_dir)
        self._run: TransformersRun | None = None
        self._restored: dict[str, Any] | None = None
        self._hooks: list[RemovableHandle] = []
        self._before_eval: set[str] = set()
        self._eval_names: set[str] = set()
        self._eval_began, self._eval_minibatches = 0.0, 0

    @property
    def state(self) -> TrainerState:
        """State of the last run; an empty one before the first."""
        return TrainerState() if self._run is None else self._run.state

    def state_dict(self) -> dict[str, Any]:
        """State for a Lightning checkpoint: the `TrainerState` as a dict."""
        return {} if self._run is None else {"trainer_state": self._run.plain_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state of a checkpoint until training begins.

        Parameters
        ----------
        state_dict
            What :meth:`state_dict` returned.
        """
        self._restored = state_dict.get("trainer_state")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fires `init_end` and `train_begin`: loaders, optimizers and a checkpoint's state are known only now."""
        run = self._begin(trainer, pl_module)
        self._eval_names = set()
        for optimizer in trainer.optimizers:
            self._hooks.append(optimizer.register_step_pre_hook(self._before_step))
            self._hooks.append(optimizer.register_step_post_hook(self._after_step))
        restored, self._restored = self._restored, None
        run.begin(restored)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fires `epoch_begin`."""
        self._current(trainer, pl_module).begin_epoch()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Fires `step_begin` if the minibatch is the first of a step."""
        self._current(trainer, pl_module).begin_minibatch()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Measures the gradients, which are not clipped yet, unless the training plan does so itself."""
        # With FSDP, a process holds a share of each gradient, so their norm would be that of the share.
        if not hasattr(pl_module, "grad_norm") and not isinstance(trainer.strategy, FSDPStrategy):
            self._current(trainer, pl_module).meter.measure_gradients(optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Fires `step_end` or `substep_end`, and what follows on a step and on the end of an epoch."""
        self._current(trainer, pl_module).end_minibatch(outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fires `epoch_end` if something else ended the epoch, and logs the epoch's metrics of the training plan."""
        run = self._current(trainer, pl_module)
        run.end_epoch(may_validate=False)
        # The loss has been logged already, and `train_loss` is transformers' name for that of the whole training.
        known = self._eval_names | {"train_loss"}
        run.log_epoch({name: float(value) for name, value in trainer.callback_metrics.items() if name not in known})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the summary of the training and fires `train_end`."""
        self._current(trainer, pl_module).end()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins to measure a validation."""
        if not trainer.sanity_checking:
            self._begin_evaluation(trainer, pl_module, trainer.val_dataloaders)
            self._before_eval = set(trainer.callback_metrics)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Fires `prediction_step`."""
        if not trainer.sanity_checking:
            self._predicted(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fires `log` and `evaluate`, and what waited for the validation."""
        if not trainer.sanity_checking:
            # Lightning keeps all metrics in one place; those that came with a validation are its own.
            self._eval_names |= set(trainer.callback_metrics) - self._before_eval
            metrics = {name: trainer.callback_metrics[name] for name in sorted(self._eval_names)}
            in_training = trainer.state.fn == TrainerFn.FITTING
            self._current(trainer, pl_module).end_validation(self._measured(metrics, "eval"), in_training=in_training)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Fires `prediction_step`."""
        self._predicted(trainer, pl_module)

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Fires `prediction_step`."""
        self._predicted(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins to measure a test."""
        self._begin_evaluation(trainer, pl_module, trainer.test_dataloaders)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fires `predict` with the metrics of the test."""
        self._current(trainer, pl_module).fire("predict", metrics=self._measured(trainer.callback_metrics, "test"))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins to measure a prediction."""
        self._begin_evaluation(trainer, pl_module, trainer.predict_dataloaders)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fires `predict`."""
        self._current(trainer, pl_module).fire("predict", metrics=self._measured({}, "test"))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves the optimizer as it was."""
        self._release()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leaves the optimizer as it was."""
        self._release()

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> TransformersRun:
        self._run = TransformersRun(trainer, pl_module, self.callbacks, self._given, self._output_dir)
        return self._run

    def _current(self, trainer: Trainer, pl_module: LightningModule) -> TransformersRun:
        return self._begin(trainer, pl_module) if self._run is None else self._run

    def _begin_evaluation(self, trainer: Trainer, pl_module: LightningModule, loaders: Any) -> None:
        first = loaders[0] if isinstance(loaders, list) and loaders else loaders
        self._current(trainer, pl_module).handler.eval_dataloader = first
        self._eval_began, self._eval_minibatches = time.time(), 0

    def _predicted(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._eval_minibatches += 1
        self._current(trainer, pl_module).fire("prediction_step")

    def _measured(self, metrics: Mapping[str, Any], stage: Literal["eval", "test"]) -> dict[str, float]:
        named = {transformers_name(name, stage): float(value) for name, value in metrics.items()}
        return {**named, **speed_metrics(stage, self._eval_began, num_steps=self._eval_minibatches)}

    # Lightning steps the optimizer with a closure that computes the gradients and clips them. transformers means the
    # moment between the clipping and the update, so the event goes to the end of the closure.
    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        closure = kwargs.get("closure")
        if closure is None:  # a gradient scaler has called it before
            self._fire("pre_optimizer_step")
            return None

        def then_fire() -> Any:
            result = closure()
            self._fire("pre_optimizer_step")
            return result

        return args, {**kwargs, "closure": then_fire}

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._run is not None:
            self._run.meter.learning_rate = optimizer.param_groups[0]["lr"]
        self._fire("optimizer_step")

    def _fire(self, event: str) -> None:
        if self._run is not None:
            self._run.fire(event)

    def _release(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
