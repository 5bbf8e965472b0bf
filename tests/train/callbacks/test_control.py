"""What callbacks ask for through `TrainerControl` is done."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Timer
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, TrainerState

from sfm.train._checkpoint import CHECKPOINT_FILE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUIET = {"logging_strategy": "no"}


def test_training_stops_after_the_step(train: Callable[..., Any], recorder: Any, model: Any) -> None:
    callback = recorder(ask="should_training_stop", step=6)
    train(callback, max_epochs=5)
    assert callback.state.global_step == 6
    assert model.trainer.global_step == 6
    assert callback.state.max_steps == 20
    assert callback.names()[-1] == "train_end"
    assert callback.names().count("epoch_end") == 2


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_epoch_stops_after_the_step(train: Callable[..., Any], recorder: Any, accumulated: int) -> None:
    callback = recorder(ask="should_epoch_stop", step=1)
    train(callback, max_epochs=2, accumulate_grad_batches=accumulated, training_arguments=QUIET)
    steps = 4 // accumulated
    assert callback.state.global_step == 1 + steps
    ends = [(step, epoch) for event, step, epoch in callback.events if event == "epoch_end"]
    assert ends == [(1, accumulated / 4), (1 + steps, 2.0)]
    assert callback.names().count("evaluate") == 2


def test_the_epoch_stops_within_an_accumulation(train: Callable[..., Any], recorder: Any) -> None:
    callback = recorder(ask="should_epoch_stop", on="substep_end", step=1)
    train(callback, max_epochs=1, accumulate_grad_batches=2)
    names = [event for event, step, _ in callback.events if step == 1]
    assert names[names.index("step_begin") :][:3] == ["step_begin", "substep_end", "epoch_end"]
    assert callback.state.global_step == 1


def test_a_validation_at_a_step(train: Callable[..., Any], recorder: Any, model: Any) -> None:
    callback = recorder(ask="should_evaluate", step=2)
    modes = []

    class Mode(recorder):  # type: ignore[misc]
        def record(self, event: str, *args: Any, **kwargs: Any) -> Any:
            modes.append((event, kwargs["model"].training, torch.is_grad_enabled()))
            return super().record(event, *args, **kwargs)

    train(callback, Mode(), max_epochs=1)
    evaluated = [step for event, step, _ in callback.events if event == "evaluate"]
    assert evaluated == [2, 4]
    assert {(train, grad) for event, train, grad in modes if event in {"step_begin", "step_end"}} == {(True, True)}
    assert {(train, grad) for event, train, grad in modes if event == "prediction_step"} == {(False, False)}
    # Lightning's own schedule is as it was.
    assert model.trainer.check_val_every_n_epoch == 1
    assert model.trainer.val_check_batch == 4


@pytest.mark.parametrize("options", [{"check_val_every_n_epoch": 3}, {"val_check_interval": 2}], ids=str)
def test_other_schedules_of_validations_stay(train: Callable[..., Any], recorder: Any, options: dict[str, int]) -> None:
    callback = recorder(ask="should_evaluate", step=1)
    train(callback, max_epochs=4, **options)
    evaluated = [step for event, step, _ in callback.events if event == "evaluate"]
    assert evaluated == [1, *([12] if "check_val_every_n_epoch" in options else range(2, 17, 2))]


def test_without_validation_cells_nothing_is_evaluated(train: Callable[..., Any], recorder: Any) -> None:
    callback = recorder(ask="should_evaluate", step=2)
    train(callback, max_epochs=1, train_size=1.0)
    assert {"evaluate", "prediction_step"} & set(callback.names()) == set()
    assert callback.args.eval_strategy == "no"


def test_a_checkpoint_is_saved_and_can_be_trained_on(train: Callable[..., Any], recorder: Any, tmp_path: Path) -> None:
    callback = recorder(ask="should_save", step=3)
    train(callback, max_epochs=1)
    folder = tmp_path / "out" / "checkpoint-3"
    assert {path.name for path in folder.iterdir()} == {CHECKPOINT_FILE, "trainer_state.json"}
    assert torch.load(folder / CHECKPOINT_FILE, weights_only=True)["global_step"] == 3
    assert TrainerState.load_from_json(str(folder / "trainer_state.json")).global_step == 3


def test_logging_on_demand(train: Callable[..., Any], recorder: Any) -> None:
    callback = recorder(ask="should_log", step=3)
    train(callback, max_epochs=1, training_arguments=QUIET)
    losses = [log for log in callback.logs if "loss" in log]
    assert len(losses) == 1
    assert {"loss", "grad_norm", "learning_rate", "epoch", "num_input_tokens_seen"} <= set(losses[0])
    assert losses[0]["epoch"] == 0.75


def test_only_the_newest_and_the_best_checkpoints_are_kept(
    train: Callable[..., Any], recorder: Any, tmp_path: Path
) -> None:
    callback = recorder()
    flow = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2, "eval_strategy": "steps", "eval_steps": 1}
    train(callback, training_arguments=flow, plan_kwargs={"lr": 1e-2})
    kept = {path.name for path in (tmp_path / "out").glob("checkpoint-*")}
    assert kept == {"checkpoint-8", f"checkpoint-{callback.state.best_global_step}"} | (
        {"checkpoint-7"} if callback.state.best_global_step == 8 else set()
    )


@pytest.mark.parametrize("metric", ["loss", "eval_elbo"])
def test_early_stopping(train: Callable[..., Any], recorder: Any, metric: str) -> None:
    callback = recorder()
    stopping = EarlyStoppingCallback(early_stopping_patience=2)
    given = {"metric_for_best_model": metric, "greater_is_better": False}
    train(stopping, callback, max_epochs=20, plan_kwargs={"lr": 0.0}, training_arguments=given)
    # The first validation is the best, as nothing is learned; two more are waited for.
    assert callback.names().count("evaluate") == 3
    assert callback.state.global_step == 12
    assert callback.state.best_metric == callback.metrics[0]["eval_loss" if metric == "loss" else metric]


def test_an_unknown_metric_is_named(train: Callable[..., Any], recorder: Any) -> None:
    with pytest.raises(ValueError, match=r"metric_for_best_model='auroc' is not among .* Choose from .*'elbo'.*'loss'"):
        train(recorder(), max_epochs=1, training_arguments={"metric_for_best_model": "auroc"})


def test_the_best_weights_are_taken_over(train: Callable[..., Any], recorder: Any, model: Any, tmp_path: Path) -> None:
    class Worsen(recorder):  # type: ignore[misc]
        """Spoils the weights after the first epoch."""

        def record(self, event: str, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            if event == "epoch_begin" and state.global_step == 4:
                with torch.no_grad():
                    kwargs["model"].head.bias.add_(torch.linspace(0, 50, len(kwargs["model"].head.bias)))
            return super().record(event, args, state, control, **kwargs)

    callback = Worsen()
    train(callback, training_arguments={"save_strategy": "epoch", "load_best_model_at_end": True})
    assert callback.state.best_global_step == 4
    assert callback.state.best_model_checkpoint == str(tmp_path / "out" / "checkpoint-4")
    best = torch.load(tmp_path / "out" / "checkpoint-4" / CHECKPOINT_FILE, weights_only=True)["state_dict"]
    assert torch.equal(best["module.network.head.bias"], model.module.network.head.bias)


def test_callbacks_that_show_progress(train: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.redirect_stderr(io.StringIO()) as bars:
        train(PrinterCallback, ProgressCallback, max_epochs=1)
    assert "'loss'" in capsys.readouterr().out
    assert "4/4" in bars.getvalue()


def test_both_kinds_run_side_by_side(train: Callable[..., Any], recorder: Any, model: Any) -> None:
    callback, timer = recorder(), Timer()
    train(timer, callback, max_epochs=20, early_stopping=True, early_stopping_patience=2, plan_kwargs={"lr": 0.0})
    assert timer.time_elapsed("train") > 0
    # scvi-tools' early stopping ended training; the events are complete.
    assert len(model.history["validation_loss"]) == callback.names().count("evaluate") == 3
    assert callback.names().count("epoch_begin") == callback.names().count("epoch_end") == 3
    assert callback.names()[-1] == "train_end"
    logged = [log["eval_loss"] for log in callback.logs if "eval_loss" in log]
    np.testing.assert_allclose(logged, model.history["validation_loss"].to_numpy(dtype=float).ravel(), rtol=1e-6)
