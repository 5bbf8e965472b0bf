"""Which callbacks are taken, and what is said about the others."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from lightning.pytorch.callbacks import EarlyStopping, Timer
from transformers import DefaultFlowCallback, EarlyStoppingCallback, PrinterCallback, TrainingArguments, integrations

from sfm.train.callbacks import TrainerCallbackAdapter, as_lightning_callbacks, reporting_callbacks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def types(callbacks: list[Any]) -> list[str]:
    return [type(callback).__name__ for callback in callbacks]


def test_lightning_callbacks_stay_as_they_are() -> None:
    given = [Timer(), EarlyStopping("validation_loss")]
    assert as_lightning_callbacks(given) == given
    assert as_lightning_callbacks(given[0]) == given[:1]
    assert as_lightning_callbacks(None) == as_lightning_callbacks([], report_to="none") == []


def test_transformers_callbacks_share_one_adapter_behind_the_others() -> None:
    timer, stopping = Timer(), EarlyStoppingCallback()
    made = as_lightning_callbacks([PrinterCallback, timer, stopping], report_to="tensorboard")
    assert made[0] is timer
    assert types(made) == ["Timer", "TrainerCallbackAdapter"]
    adapter = made[1]
    assert isinstance(adapter, TrainerCallbackAdapter)
    expected = ["DefaultFlowCallback", "TensorBoardCallback", "PrinterCallback", "EarlyStoppingCallback"]
    assert types(adapter.callbacks) == expected
    assert adapter.callbacks[-1] is stopping


def test_reports_named_in_the_arguments_are_made(tmp_path: Path) -> None:
    named = {"report_to": ["tensorboard"]}
    for given in (named, TrainingArguments(str(tmp_path), use_cpu=True, **named)):
        (adapter,) = as_lightning_callbacks(None, training_arguments=given)
        assert isinstance(adapter, TrainerCallbackAdapter)
        assert types(adapter.callbacks) == ["DefaultFlowCallback", "TensorBoardCallback"]
        assert as_lightning_callbacks(None, report_to="none", training_arguments=given) == []


def test_a_flow_of_ones_own_takes_the_place_of_the_default() -> None:
    class Flow(DefaultFlowCallback):
        pass

    (adapter,) = as_lightning_callbacks(Flow())
    assert isinstance(adapter, TrainerCallbackAdapter)
    assert types(adapter.callbacks) == ["Flow"]


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        ("tensorboard", r"report_to='tensorboard'"),
        (Timer, r"pass an instance, `Timer\(...\)`"),
        (print, r"neither a Lightning callback .* nor a transformers callback"),
    ],
    ids=str,
)
def test_other_objects_are_refused(callback: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        as_lightning_callbacks([callback])


def test_an_unknown_report_is_refused() -> None:
    with pytest.raises(ValueError, match=r"report_to='tensorbord' is not known. Known are .*'tensorboard'"):
        reporting_callbacks(["tensorbord"])


@pytest.mark.parametrize("report_to", ["none", None, [], ["none"]], ids=str)
def test_no_report(report_to: Any) -> None:
    assert reporting_callbacks(report_to) == []


def test_all_reports_are_those_that_are_installed() -> None:
    known = integrations.get_available_reporting_integrations()
    assert "tensorboard" in known
    assert len(reporting_callbacks("all")) == len(known)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("azure_ml", "azureml-core"),
        ("clearml", "clearml"),
        ("codecarbon", "codecarbon"),
        ("comet_ml", "comet_ml"),
        ("dagshub", "dagshub mlflow"),
        ("dvclive", "dvclive"),
        ("flyte", "flytekit"),
        ("mlflow", "mlflow"),
        ("swanlab", "swanlab"),
        ("tensorboard", "tensorboard"),
        ("trackio", "trackio"),
        ("wandb", "wandb"),
    ],
)
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    class Hidden:
        def find_spec(self, module: str, *args: object) -> None:
            if module.split(".")[0] == top:
                raise ModuleNotFoundError(module)

    top = {"azure_ml": "azureml", "flyte": "flytekit"}.get(name, name)
    for module in [module for module in sys.modules if module.split(".")[0] == top]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Hidden(), *sys.meta_path])
    with pytest.raises(ImportError, match=rf"report_to='{name}' needs .* Run `pip install {package}`"):
        reporting_callbacks(name)


class TestArguments:
    def test_they_say_what_the_trainer_does(self, train: Callable[..., Any], recorder: Any, tmp_path: Path) -> None:
        callback = recorder()
        options = {"accumulate_grad_batches": 2, "precision": "bf16-mixed", "gradient_clip_val": 0.3}
        train(callback, max_epochs=3, plan_kwargs={"lr": 0.02, "weight_decay": 0.03, "betas": (0.8, 0.9)}, **options)
        args = callback.args
        assert isinstance(args, TrainingArguments)
        assert (args.num_train_epochs, args.max_steps, args.gradient_accumulation_steps) == (3.0, -1, 2)
        assert (args.per_device_train_batch_size, args.train_batch_size) == (16, 16)
        assert (args.learning_rate, args.weight_decay, args.adam_beta1, args.adam_beta2) == (0.02, 0.03, 0.8, 0.9)
        assert (args.max_grad_norm, args.bf16, args.fp16, args.seed) == (0.3, True, False, 0)
        assert (args.eval_strategy, args.save_strategy, args.logging_steps) == ("epoch", "no", 1)
        assert args.output_dir == str(tmp_path / "out")
        assert args.device.type == "cpu"

    @pytest.mark.parametrize("how", ["dict", "TrainingArguments"])
    def test_given_ones_decide_about_logging_and_saving(
        self, train: Callable[..., Any], recorder: Any, tmp_path: Path, how: str
    ) -> None:
        given: Any = {"logging_steps": 2, "run_name": "tiny", "save_strategy": "epoch", "eval_strategy": "no"}
        if how == "TrainingArguments":
            given = TrainingArguments(str(tmp_path / "ignored"), use_cpu=True, **given)
        callback = recorder()
        train(callback, max_epochs=1, training_arguments=given)
        args = callback.args
        assert (args.logging_steps, args.run_name, args.save_strategy) == (2, "tiny", "epoch")
        assert (args.num_train_epochs, args.learning_rate) == (1.0, 1e-3)
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["checkpoint-4"]

    def test_a_class_of_ones_own_reaches_the_callbacks(
        self, train: Callable[..., Any], recorder: Any, tmp_path: Path
    ) -> None:
        @dataclass
        class Own(TrainingArguments):
            tissue: str = "blood"

        callback = recorder()
        train(callback, max_epochs=1, training_arguments=Own(str(tmp_path), use_cpu=True, tissue="lung"))
        assert callback.args.tissue == "lung"

    @pytest.mark.parametrize("how", ["dict", "TrainingArguments"])
    def test_what_the_trainer_decides_is_refused(
        self, train: Callable[..., Any], recorder: Any, tmp_path: Path, how: str
    ) -> None:
        given: Any = {"num_train_epochs": 7, "learning_rate": 0.1, "logging_steps": 2, "optim": "adafactor"}
        if how == "TrainingArguments":
            given = TrainingArguments(str(tmp_path), **given)
        with pytest.raises(ValueError, match=r"num_train_epochs=7 \(use max_epochs=\).* learning_rate=0.1 \(use plan_"):
            train(recorder(), max_epochs=1, training_arguments=given)
        train(recorder(), max_epochs=7, training_arguments={"num_train_epochs": 7})

    def test_an_unknown_one_is_refused(self, train: Callable[..., Any], recorder: Any) -> None:
        with pytest.raises(TypeError, match=r"\['epochs'\], which `transformers.TrainingArguments` does not know"):
            train(recorder(), max_epochs=1, training_arguments={"epochs": 1})

    def test_validation_without_cells_is_refused(self, train: Callable[..., Any], recorder: Any) -> None:
        with pytest.raises(ValueError, match=r"eval_strategy='steps' asks for a validation.*train_size="):
            train(recorder(), train_size=1.0, training_arguments={"eval_strategy": "steps", "eval_steps": 1})


def test_train_takes_all_of_it(model: Any, recorder: Any, tmp_path: Path) -> None:
    callback, timer = recorder(), Timer()
    model.train(
        max_epochs=1,
        accelerator="cpu",
        enable_progress_bar=False,
        callbacks=[callback, timer, PrinterCallback],
        report_to=["tensorboard"],
        training_arguments={"run_name": "blood"},
        checkpoint_dir=tmp_path / "run",
    )
    assert timer.time_elapsed("train") > 0
    assert callback.names()[-1] == "train_end"
    assert callback.args.run_name == "blood"
    assert (tmp_path / "run" / "runs").is_dir()
