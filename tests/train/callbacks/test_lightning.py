"""The adapter in a Lightning trainer without scvi-tools: other loops, other modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from sfm.train.callbacks import as_lightning_callbacks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor


class Line(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, minibatch: Tensor, _: int) -> Tensor:
        return self.layer(minibatch).square().mean()

    def validation_step(self, minibatch: Tensor, _: int) -> None:
        self.log("val_loss", self.layer(minibatch).square().mean())

    def test_step(self, minibatch: Tensor, batch_idx: int) -> None:
        self.log("test_error", self.layer(minibatch).abs().mean())

    def predict_step(self, minibatch: Tensor, _: int) -> Tensor:
        return self.layer(minibatch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Tensor]:
        for i in range(6):
            yield torch.full((1,), float(i))


def loader(n: int) -> DataLoader[Any]:
    return DataLoader(torch.linspace(0, 1, n)[:, None], batch_size=2)  # type: ignore[arg-type]


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., pl.Trainer]:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}

    def make(*callbacks: object, **kwargs: Any) -> pl.Trainer:
        made = as_lightning_callbacks(callbacks, output_dir=tmp_path)
        return pl.Trainer(accelerator="cpu", callbacks=made, enable_model_summary=False, **{**quiet, **kwargs})

    return make


def test_prediction(trainer: Callable[..., pl.Trainer], recorder: Any) -> None:
    callback = recorder()
    trainer(callback).predict(Line(), loader(6))
    assert callback.names() == ["init_end", *["prediction_step"] * 3, "predict"]
    assert "test_runtime" in callback.metrics[0]
    assert len(callback.given[-1]["eval_dataloader"]) == 3


def test_testing(trainer: Callable[..., pl.Trainer], recorder: Any) -> None:
    callback = recorder()
    trainer(callback).test(Line(), loader(4), verbose=False)
    assert callback.names() == ["init_end", *["prediction_step"] * 2, "predict"]
    assert {"test_error", "test_runtime", "test_steps_per_second"} <= set(callback.metrics[0])


def test_validation_alone(trainer: Callable[..., pl.Trainer], recorder: Any) -> None:
    callback = recorder()
    trainer(callback).validate(Line(), loader(4), verbose=False)
    assert callback.names() == ["init_end", *["prediction_step"] * 2, "log", "evaluate"]
    assert callback.metrics[0]["eval_loss"] >= 0


def test_training_after_a_sanity_check(trainer: Callable[..., pl.Trainer], recorder: Any) -> None:
    callback = recorder()
    trainer(callback, max_epochs=1, log_every_n_steps=1).fit(Line(), loader(6), loader(4))
    assert callback.names()[:3] == ["init_end", "train_begin", "epoch_begin"]
    assert callback.names().count("prediction_step") == 2
    assert (callback.args.learning_rate, callback.args.per_device_train_batch_size) == (0.1, 2)


def test_a_module_without_a_validation_loss(trainer: Callable[..., pl.Trainer], recorder: Any) -> None:
    class Other(Line):
        def validation_step(self, minibatch: Tensor, batch_idx: int) -> None:
            self.log("val_error", self.layer(minibatch).abs().mean())

    callback = recorder()
    trainer(callback, max_epochs=1, log_every_n_steps=1).fit(Other(), loader(6), loader(4))
    assert "eval_error" in callback.metrics[0]
    assert callback.state.best_metric is None


def test_a_loader_without_a_length(trainer: Callable[..., pl.Trainer], recorder: Any) -> None:
    callback = recorder()
    made = trainer(callback, max_epochs=2, log_every_n_steps=1)
    made.fit(Line(), DataLoader(Endless(), batch_size=2), loader(4))
    assert callback.state.global_step == made.global_step == 6
    assert callback.names().count("epoch_end") == callback.names().count("evaluate") == 2
    assert callback.names()[-1] == "train_end"
    ends = [i for i, event in enumerate(callback.names()) if event == "epoch_end"]
    assert all(callback.names()[i + 1] == "prediction_step" for i in ends)
