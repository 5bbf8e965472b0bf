"""`TrainerState` is live, counts correctly, and goes through JSON and checkpoints."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import EarlyStoppingCallback, TrainerState

from sfm.train._splitter import registered_tokens

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("accumulated", [1, 3])
def test_loss_and_tokens_are_those_of_the_minibatches(
    train: Callable[..., Any], recorder: Any, model: Any, accumulated: int
) -> None:
    callback = recorder()
    train(callback, max_epochs=1, accumulate_grad_batches=accumulated)
    lengths = registered_tokens(model.adata_manager).lengths
    trained = int(lengths[model.train_indices].sum())
    assert callback.state.num_input_tokens_seen == trained
    seen = [log["num_input_tokens_seen"] for log in callback.logs if "loss" in log]
    assert seen == sorted(set(seen))
    assert seen[-1] == trained
    network = model.module.network
    per_token = 6 * network.num_parameters(exclude_embeddings=True)
    assert callback.state.total_flos >= per_token * trained
    assert callback.state.total_flos % per_token == 0
    if accumulated == 1:
        # The mean over minibatches of unequal size is that of scvi-tools but for their weights.
        losses = [log["loss"] for log in callback.logs if "loss" in log]
        assert min(losses) <= float(model.history["train_loss"].iloc[0, 0]) <= max(losses)
    summary = callback.logs[-1]
    assert summary["train_loss"] == pytest.approx(np.mean([log["loss"] for log in callback.logs if "loss" in log]))


def test_an_incomplete_accumulation_has_the_loss_of_its_minibatches(
    train: Callable[..., Any], recorder: Any, model: Any
) -> None:
    single, several = recorder(), recorder()
    start = {name: value.clone() for name, value in model.module.state_dict().items()}
    frozen = {"plan_kwargs": {"lr": 0.0}, "max_epochs": 1}
    torch.manual_seed(0)
    train(single, **frozen)
    model.module.load_state_dict(start)
    torch.manual_seed(0)
    train(several, accumulate_grad_batches=3, **frozen)
    one = [log["loss"] for log in single.logs if "loss" in log]
    three = [log["loss"] for log in several.logs if "loss" in log]
    assert three == pytest.approx([np.mean(one[:3]), one[3]], rel=1e-5)


@pytest.mark.parametrize("setting", ["all", "no"])
def test_tokens_are_counted_as_asked(train: Callable[..., Any], recorder: Any, model: Any, setting: str) -> None:
    callback = recorder()
    train(callback, max_epochs=1, training_arguments={"include_num_input_tokens_seen": setting})
    trained = int(registered_tokens(model.adata_manager).lengths[model.train_indices].sum())
    counted = callback.state.num_input_tokens_seen
    assert counted >= trained if setting == "all" else counted == 0
    assert any("num_input_tokens_seen" in log for log in callback.logs) == (setting == "all")


def test_state_goes_through_json(train: Callable[..., Any], recorder: Any, tmp_path: Path) -> None:
    callback = recorder()
    given = {"save_strategy": "epoch", "eval_steps": 7, "logging_steps": 2}
    train(callback, EarlyStoppingCallback(3), training_arguments=given)
    state = callback.state
    state.save_to_json(str(tmp_path / "state.json"))
    assert asdict(TrainerState.load_from_json(str(tmp_path / "state.json"))) == asdict(state)
    assert (state.epoch, state.global_step, state.max_steps, state.num_train_epochs) == (2.0, 8, 8, 2)
    assert (state.logging_steps, state.eval_steps, state.train_batch_size) == (2, 7, 16)
    assert state.is_world_process_zero
    assert state.is_local_process_zero
    assert state.best_metric == min(log["eval_loss"] for log in callback.logs if "eval_loss" in log)
    assert set(state.stateful_callbacks) == {"EarlyStoppingCallback", "TrainerControl"}
    # The folder of the last checkpoint holds the state as it was then: without the end of the training.
    saved = TrainerState.load_from_json(str(tmp_path / "out" / "checkpoint-8" / "trainer_state.json"))
    assert saved.log_history == state.log_history[: len(saved.log_history)]


@pytest.mark.parametrize("step", [3, 4, 6], ids="saved at step {}".format)
@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_run_goes_on_from_its_checkpoint(
    train: Callable[..., Any], recorder: Any, model: Any, tmp_path: Path, step: int, accumulated: int
) -> None:
    whole = recorder(ask="should_save", step=step)
    # So small a rate that no validation is better than the first by the threshold.
    options = {"max_epochs": 5, "accumulate_grad_batches": accumulated, "plan_kwargs": {"lr": 1e-9}}
    adapter = train(whole, EarlyStoppingCallback(50, 0.5), **options)
    counted = next(c for c in adapter.callbacks if isinstance(c, EarlyStoppingCallback)).early_stopping_patience_counter
    saved = TrainerState.load_from_json(str(tmp_path / "out" / f"checkpoint-{step}" / "trainer_state.json"))

    rest, stopping = recorder(), EarlyStoppingCallback(60, 0.5)
    train(rest, stopping, resume=tmp_path / "out" / f"checkpoint-{step}", **options)
    assert rest.events[:2] == [("init_end", 0, 0), ("train_begin", step, pytest.approx(step * accumulated / 4))]
    assert rest.state.global_step == whole.state.global_step == 20 // accumulated
    assert rest.state.epoch == whole.state.epoch == 5.0
    assert rest.state.log_history[: len(saved.log_history)] == saved.log_history
    assert rest.state.best_metric == pytest.approx(whole.state.best_metric, rel=1e-4)
    steps = [log["step"] for log in rest.state.log_history if "loss" in log]
    assert steps == list(range(1, 20 // accumulated + 1))
    assert stopping.early_stopping_patience == 60
    # As in transformers, an epoch whose last step was saved is over: its validation is not made up for.
    assert stopping.early_stopping_patience_counter == counted - (step * accumulated % 4 == 0)
    assert [e for e in rest.events if e[1] > step] == [e for e in whole.events if e[1] > step]


def test_a_checkpoint_of_lightning_keeps_the_state(
    train: Callable[..., Any], recorder: Any, tmp_path: Path, model: Any
) -> None:
    callback = recorder()
    train(callback, max_epochs=1)
    model.trainer.save_checkpoint(tmp_path / "own.ckpt")
    kept = torch.load(tmp_path / "own.ckpt", weights_only=True)["callbacks"]["TrainerCallbackAdapter"]
    assert kept["trainer_state"]["global_step"] == 4
    assert kept["trainer_state"]["log_history"] == callback.state.log_history
