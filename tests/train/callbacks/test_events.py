"""Events come in the order and number of `transformers.Trainer`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import scvi
import torch
from transformers import Trainer, TrainingArguments

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor, nn

EPOCH_METRIC = "elbo_train"


class Line(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": torch.nn.functional.mse_loss(self.layer(x), labels)}


def data(n: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [{"x": torch.rand(1, generator=generator), "labels": torch.rand(1, generator=generator)} for _ in range(n)]


def of_transformers(recorder: Any, model: nn.Module, folder: Path, **arguments: Any) -> None:
    """The same numbers of minibatches and epochs in transformers' own trainer."""
    defaults: dict[str, Any] = {
        "use_cpu": True,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 16,
        "logging_steps": 1,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "report_to": "none",
        "num_train_epochs": 2,
        "disable_tqdm": True,
    }
    args = TrainingArguments(output_dir=str(folder), **{**defaults, **arguments})
    trainer = Trainer(model, args, train_dataset=data(54), eval_dataset=data(6), callbacks=[recorder])
    trainer.train()


def without_epoch_metrics(recorder: Any) -> list[tuple[str, int, float]]:
    """Events without the one that transformers does not have: the log of the training plan's metrics of an epoch."""
    logs = iter(recorder.logs)
    return [event for event in recorder.events if event[0] != "log" or EPOCH_METRIC not in next(logs)]


@pytest.mark.parametrize("accumulated", [1, 2, 3], ids="{} minibatches a step".format)
@pytest.mark.parametrize(
    "flow",
    [
        pytest.param({}, id="epochs"),
        pytest.param({"save_strategy": "epoch"}, id="epochs with saving"),
        pytest.param({"logging_strategy": "epoch"}, id="logging once an epoch"),
        pytest.param({"logging_strategy": "no"}, id="no logging"),
        pytest.param({"logging_steps": 3, "logging_first_step": True}, id="logging steps"),
        pytest.param({"save_strategy": "steps", "save_steps": 3}, id="saving steps"),
        pytest.param({"save_strategy": "best", "metric_for_best_model": "loss"}, id="saving the best"),
    ],
)
def test_order_and_counts_are_those_of_transformers(
    train: Callable[..., Any], recorder: Any, tmp_path: Path, accumulated: int, flow: dict[str, Any]
) -> None:
    ours, theirs = recorder(), recorder()
    train(ours, training_arguments=flow, accumulate_grad_batches=accumulated)
    of_transformers(theirs, Line(), tmp_path / "theirs", gradient_accumulation_steps=accumulated, **flow)
    # A validation may find no better loss, in either trainer: then nothing is saved.
    leave = {"save"} if flow.get("save_strategy") == "best" else set()
    assert [e for e in without_epoch_metrics(ours) if e[0] not in leave] == [
        e for e in theirs.events if e[0] not in leave
    ]
    assert ours.names().count("epoch_end") == 2


@pytest.mark.parametrize("eval_steps", [1, 3])
def test_evaluation_at_steps_is_that_of_transformers(
    train: Callable[..., Any], recorder: Any, tmp_path: Path, eval_steps: int
) -> None:
    flow = {"eval_strategy": "steps", "eval_steps": eval_steps, "save_strategy": "steps", "save_steps": eval_steps}
    ours, theirs = recorder(), recorder()
    # Lightning's own validation at the end of each epoch is put off, so that those of the flow remain.
    train(ours, training_arguments=flow, check_val_every_n_epoch=100)
    of_transformers(theirs, Line(), tmp_path / "theirs", **flow)
    assert without_epoch_metrics(ours) == theirs.events


def test_a_limit_of_steps_within_an_epoch(train: Callable[..., Any], recorder: Any, tmp_path: Path) -> None:
    ours, theirs = recorder(), recorder()
    train(ours, max_epochs=-1, max_steps=6)
    of_transformers(theirs, Line(), tmp_path / "theirs", max_steps=6)
    assert without_epoch_metrics(ours) == theirs.events


def test_gradients_are_clipped_before_and_kept_after_the_optimizer_step(
    train: Callable[..., Any], recorder: Any, model: Any
) -> None:
    class Gradients(recorder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.seen: dict[str, list[tuple[float, float]]] = {"pre_optimizer_step": [], "optimizer_step": []}

        def record(self, event: str, *args: Any, **kwargs: Any) -> Any:
            if event in self.seen:
                parameters = [p for p in kwargs["model"].parameters() if p.grad is not None]
                norm = torch.stack([p.grad.norm() for p in parameters]).norm()
                weights = torch.stack([p.detach().norm() for p in parameters]).norm()
                self.seen[event].append((float(norm), float(weights)))
            return super().record(event, *args, **kwargs)

    callback = Gradients()
    train(callback, max_epochs=1, gradient_clip_val=0.05)
    before, after = callback.seen["pre_optimizer_step"], callback.seen["optimizer_step"]
    assert len(before) == len(after) == 4
    for (norm, weights), (norm_after, weights_after) in zip(before, after, strict=True):
        assert norm == pytest.approx(0.05, rel=1e-3)
        assert norm_after == norm
        assert weights != weights_after
    # What is logged is the norm before clipping, as in transformers.
    assert all(log["grad_norm"] > 0.1 for log in callback.logs if "grad_norm" in log)


def test_a_callback_does_not_change_the_training(model: Any, recorder: Any, train: Callable[..., Any]) -> None:
    start = {name: value.clone() for name, value in model.module.state_dict().items()}

    def weights() -> dict[str, Tensor]:
        return {name: value.clone() for name, value in model.module.state_dict().items()}

    options = {"max_epochs": 2, "batch_size": 16, "accelerator": "cpu", "enable_progress_bar": False}
    scvi.settings.seed = 1
    model.train(**options)
    alone = weights()
    model.module.load_state_dict(start)
    scvi.settings.seed = 1
    train(recorder(ask="should_evaluate"), training_arguments={"eval_strategy": "steps", "eval_steps": 1})
    assert all(torch.equal(alone[name], value) for name, value in weights().items())
    assert any(not torch.equal(start[name], value) for name, value in alone.items())


def test_callbacks_get_the_network_and_what_belongs_to_it(train: Callable[..., Any], recorder: Any, model: Any) -> None:
    callback = recorder()
    train(callback, max_epochs=1)
    for event, given in zip(callback.names(), callback.given, strict=True):
        assert given["model"] is model.module.network
        assert given["processing_class"] is None
        assert isinstance(given["optimizer"], torch.optim.AdamW)
        assert isinstance(given["lr_scheduler"], torch.optim.lr_scheduler.LambdaLR)
        assert len(given["train_dataloader"]) == 4
        if event in {"prediction_step", "evaluate"}:
            assert len(given["eval_dataloader"]) == 1
