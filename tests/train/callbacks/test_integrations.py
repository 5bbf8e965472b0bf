"""What the reporting integrations write offline is read back from their own files."""

from __future__ import annotations

import contextlib
import csv
import json
import sqlite3
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

STEPS = 8


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Some integrations write to the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def report(train: Callable[..., Any], recorder: Any) -> Callable[..., dict[str, list[float]]]:
    """Train with an integration beside the recorder; returns what was logged, by name."""

    def run(name: str, **kwargs: Any) -> dict[str, list[float]]:
        callback = recorder()
        train(callback, report_to=name, **kwargs)
        logged: dict[str, list[float]] = {}
        for log in callback.logs:
            for key, value in log.items():
                logged.setdefault(key, []).append(value)
        assert len(logged["loss"]) == STEPS
        assert len(logged["eval_loss"]) == 2
        return logged

    return run


def close(found: Any, logged: list[float]) -> bool:
    return list(found) == pytest.approx(logged, rel=1e-5)


def test_tensorboard(report: Callable[..., Any], folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logged = report("tensorboard")
    (run,) = (folder / "out" / "runs").iterdir()
    events = EventAccumulator(str(run))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, STEPS + 1))
    for tag, name in {"train/loss": "loss", "train/grad_norm": "grad_norm", "eval/loss": "eval_loss"}.items():
        assert close([event.value for event in events.Scalars(tag)], logged[name])
    (args,) = events.Tensors("args/text_summary")
    assert json.loads(args.tensor_proto.string_val[0])["num_train_epochs"] == 2.0


def test_mlflow(report: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (folder / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 prefers a database
    from mlflow import MlflowClient

    logged = report("mlflow", training_arguments={"run_name": "toy"})
    client = MlflowClient()
    (run,) = client.search_runs(["0"])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "toy")
    for name in ("loss", "learning_rate", "eval_loss", "elbo_train"):
        assert close([metric.value for metric in client.get_metric_history(run.info.run_id, name)], logged[name])
    assert run.data.params["per_device_train_batch_size"] == "16"
    assert int(run.data.params["vocab_size"]) > 300
    # The files are plain: value and step stand in each line.
    (file,) = (folder / "mlruns").rglob("metrics/eval_loss")
    assert close([float(line.split()[1]) for line in file.read_text().splitlines()], logged["eval_loss"])


def wandb_records(path: Path) -> Iterator[Any]:
    """Records of an offline run: a LevelDB log in blocks of 32 KiB, behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, whole = path.read_bytes(), 7, b""
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        size, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        whole += content[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(whole)
            whole = b""


def test_wandb(report: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(folder))
    import wandb

    logged = report("wandb")
    wandb.finish()
    wandb.teardown()  # its writer is another process; this waits for it
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    history: list[dict[str, Any]] = []
    configuration: dict[str, Any] = {}
    for record in wandb_records(file):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            history.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
        if record.WhichOneof("record_type") == "config":
            configuration |= {item.key: json.loads(item.value_json) for item in record.config.update}
    for tag, name in {"train/loss": "loss", "eval/loss": "eval_loss", "eval/elbo": "eval_elbo"}.items():
        assert close([row[tag] for row in history if tag in row], logged[name])
    assert configuration["gradient_accumulation_steps"] == 1
    assert configuration["vocab_size"] > 300


def test_dvclive(report: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_NO_ANALYTICS", "true")
    logged = report("dvclive")
    assert close([json.loads((folder / "dvclive" / "metrics.json").read_text())["loss"]], logged["loss"][-1:])
    for name, file in {"loss": "loss", "eval_loss": "eval/loss"}.items():
        with (folder / "dvclive" / "plots" / "metrics" / f"{file}.tsv").open() as table:
            assert close(
                [float(row[file.split("/")[-1]]) for row in csv.DictReader(table, delimiter="\t")], logged[name]
            )
    assert "max_grad_norm: 1.0" in (folder / "dvclive" / "params.yaml").read_text()


@pytest.mark.parametrize("how", ["report_to", "a tracker of one's own"])
def test_codecarbon_without_a_network(
    train: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    from codecarbon import OfflineEmissionsTracker
    from transformers.integrations import CodeCarbonCallback

    monkeypatch.setenv("CODECARBON_LOG_LEVEL", "error")
    if how == "report_to":
        monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "DEU")
        train(report_to="codecarbon", max_epochs=1)
    else:
        callback = CodeCarbonCallback()
        (folder / "out").mkdir()
        callback.tracker = OfflineEmissionsTracker(country_iso_code="DEU", output_dir=str(folder / "out"))
        train(callback, max_epochs=1)
    with (folder / "out" / "emissions.csv").open() as table:
        (row,) = csv.DictReader(table)
    assert row["country_name"] == "Germany"
    assert float(row["duration"]) > 0
    assert float(row["emissions"]) > 0


def test_trackio(report: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trackio import sqlite_storage, utils

    # The setting is TRACKIO_DIR, which trackio reads only once.
    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", folder)
    monkeypatch.setattr(utils, "TRACKIO_DIR", folder)
    logged = report("trackio", training_arguments={"project": "toy", "run_name": "one"})
    with contextlib.closing(sqlite3.connect(folder / "toy.db")) as database:
        rows = [json.loads(text) for (text,) in database.execute("select metrics from metrics order by id")]
    assert close([row["train/loss"] for row in rows if "train/loss" in row], logged["loss"])
    assert close([row["eval/loss"] for row in rows if "eval/loss" in row], logged["eval_loss"])


# The packages of the following tests change what other tests run in (loggers, hooks into torch, older protobuf), so
# they are not among the requirements of the tests. They are run where the packages are installed.


def test_comet(report: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMET_START_ONLINE", "0")
    monkeypatch.setenv("COMET_OFFLINE_DIRECTORY", str(folder))
    comet_ml = pytest.importorskip("comet_ml")
    logged = report("comet_ml")
    comet_ml.end()
    (file,) = folder.glob("*.zip")
    with zipfile.ZipFile(file) as archive:
        messages = [json.loads(line) for line in archive.read("messages.json").splitlines()]
    metrics = [message["payload"]["metric"] for message in messages if message["type"] == "metric_msg"]
    losses = {m["step"]: m["metricValue"] for m in metrics if m["metricName"] == "train/loss"}
    assert close([losses[step] for step in range(1, STEPS + 1)], logged["loss"])


@pytest.mark.slow
def test_clearml(report: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEARML_OFFLINE_MODE", "1")
    monkeypatch.setenv("CLEARML_CACHE_DIR", str(folder))
    pytest.importorskip("clearml")
    logged = report("clearml")
    (file,) = folder.glob("offline/*/metrics.jsonl")
    metrics = [metric for line in file.read_text().splitlines() for metric in json.loads(line)]
    for title, name in {"train": "loss", "eval": "eval_loss"}.items():
        found = [m["value"] for m in metrics if m["metric"] == title and m["variant"] == "loss"]
        assert close(found, logged[name])


def test_swanlab(report: Callable[..., Any], folder: Path) -> None:
    swanlab = pytest.importorskip("swanlab")
    # transformers asks whether there is a run, which the newest swanlab answers only if there is one.
    swanlab.init(mode="local", logdir=str(folder / "swanlog"), project="toy")
    logged = report("swanlab")
    swanlab.finish()
    found = {}
    for file in sorted((folder / "swanlog").rglob("logs/*/*.log")):
        values = [json.loads(line)["data"] for line in file.read_text().splitlines()]
        found[file.parent.name] = values
    assert any(close(values, logged["loss"]) for values in found.values())
    assert any(close(values, logged["eval_loss"]) for values in found.values())
