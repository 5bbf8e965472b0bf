from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import scvi
from transformers import TrainerCallback

from sfm.datasets import toy_cells
from sfm.model import MaskedCellModel
from sfm.train.callbacks import TrainerCallbackAdapter, as_lightning_callbacks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import TrainerControl, TrainerState, TrainingArguments

EVENTS = (
    "init_end",
    "train_begin",
    "epoch_begin",
    "step_begin",
    "pre_optimizer_step",
    "optimizer_step",
    "substep_end",
    "step_end",
    "log",
    "evaluate",
    "save",
    "predict",
    "prediction_step",
    "epoch_end",
    "train_end",
)


class Recorder(TrainerCallback):
    """Writes down every event, and asks for what it is told to ask for at one of them."""

    def __init__(self, *, ask: str | None = None, on: str = "step_end", step: int = 1) -> None:
        self.events: list[tuple[str, int, float]] = []
        self.logs: list[dict[str, float]] = []
        self.metrics: list[dict[str, float]] = []
        self.given: list[dict[str, Any]] = []
        self.ask, self.on, self.step = ask, on, step
        self.args: TrainingArguments
        self.state: TrainerState

    def names(self) -> list[str]:
        return [event for event, _, _ in self.events]

    def record(
        self, event: str, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        self.args, self.state = args, state
        self.events.append((event, state.global_step, round(state.epoch, 6)))
        self.logs += [dict(kwargs["logs"])] if "logs" in kwargs else []
        self.metrics += [dict(kwargs["metrics"])] if "metrics" in kwargs else []
        self.given.append(kwargs)
        if self.ask is not None and event == self.on and state.global_step == self.step:
            setattr(control, self.ask, True)
        return control


def _recorded(event: str) -> Callable[..., TrainerControl]:
    return lambda self, args, state, control, **kwargs: self.record(event, args, state, control, **kwargs)


for _event in EVENTS:
    setattr(Recorder, f"on_{_event}", _recorded(_event))


@pytest.fixture
def recorder() -> type[Recorder]:
    return Recorder


@pytest.fixture
def model() -> MaskedCellModel:
    """54 cells to train on and 6 to validate with."""
    adata = toy_cells(60)
    scvi.settings.seed = 0
    MaskedCellModel.setup_anndata(adata, max_length=64)
    return MaskedCellModel(adata, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)


@pytest.fixture
def train(model: MaskedCellModel, tmp_path: Path) -> Callable[..., TrainerCallbackAdapter]:
    """Train the model with callbacks of both kinds; returns the adapter."""

    def run(
        *callbacks: object,
        max_epochs: int = 2,
        report_to: str | list[str] | None = None,
        training_arguments: object = None,
        **kwargs: Any,
    ) -> TrainerCallbackAdapter:
        made = as_lightning_callbacks(
            callbacks, report_to=report_to, training_arguments=training_arguments, output_dir=tmp_path / "out"
        )
        options = {"batch_size": 16, "accelerator": "cpu", "enable_progress_bar": False, **kwargs}
        model.train(max_epochs=max_epochs, callbacks=made, **options)
        return next(callback for callback in made if isinstance(callback, TrainerCallbackAdapter))

    return run
