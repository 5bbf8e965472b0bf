"""A run that was interrupted goes on as if it had not been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback

from sfm.datasets import toy_cells
from sfm.model import MaskedCellModel
from sfm.train._checkpoint import checkpoints_in

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
EPOCHS = 3
CURVES = ["train_loss", "validation_loss", "elbo_train", "elbo_validation"]


class Interruption(RuntimeError):
    pass


class StopAt(Callback):
    """Raise after some optimizer steps, as an error of the machine would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: object, *_: object) -> None:
        if trainer.global_step == self.step:
            raise Interruption


def run(n_obs: int = 60, **options: object) -> MaskedCellModel:
    """Train 7 steps per epoch on 60 cells."""
    scvi.settings.seed = 0
    adata = toy_cells(n_obs)
    MaskedCellModel.setup_anndata(adata, max_length=32)
    model = MaskedCellModel(adata, **SIZES)
    options = {"max_epochs": EPOCHS, "batch_size": 8, "accelerator": "cpu", "enable_progress_bar": False, **options}
    model.train(**options)
    return model


@pytest.fixture(scope="module")
def whole() -> MaskedCellModel:
    return run()


def curve(model: MaskedCellModel, name: str) -> np.ndarray:
    return model.history[name].to_numpy(dtype=float).ravel()


def assert_same(model: MaskedCellModel, whole: MaskedCellModel) -> None:
    for name in CURVES:
        np.testing.assert_allclose(curve(model, name), curve(whole, name), rtol=1e-4)
    for weight, expected in zip(model.module.parameters(), whole.module.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("step", "every"),
    [
        pytest.param(10, 2, id="within an epoch"),
        pytest.param(10, None, id="back to the end of the epoch before"),
        pytest.param(8, 1, id="first step of an epoch"),
        pytest.param(7, 1, id="last step of an epoch"),
        pytest.param(14, None, id="before validation"),
    ],
)
def test_interrupted_run_goes_on(whole: MaskedCellModel, tmp_path: Path, step: int, every: int | None) -> None:
    options = {"checkpoint_dir": tmp_path, "checkpoint_every": every}
    with pytest.raises(Interruption):
        run(**options, callbacks=[StopAt(step)])
    assert 0 < len(checkpoints_in(tmp_path)) <= 2
    assert_same(run(**options, resume=True), whole)


def test_accumulation_goes_on(tmp_path: Path) -> None:
    options = {"checkpoint_dir": tmp_path, "checkpoint_every": 1, "accumulate_grad_batches": 2, "batch_size": 6}
    with pytest.raises(Interruption):
        run(**options, callbacks=[StopAt(8)])
    assert_same(run(**options, resume=True), run(accumulate_grad_batches=2, batch_size=6))


def test_finished_run_can_be_extended(tmp_path: Path) -> None:
    run(max_epochs=1, checkpoint_dir=tmp_path)
    longer = run(max_epochs=2, checkpoint_dir=tmp_path, resume=True)
    assert len(curve(longer, "train_loss")) == 2
    assert longer.trainer.global_step == 14


def test_resume_without_a_checkpoint_starts(whole: MaskedCellModel, tmp_path: Path) -> None:
    assert_same(run(checkpoint_dir=tmp_path, resume=True), whole)


def test_resume_takes_the_learning_rate_it_is_given(tmp_path: Path) -> None:
    with pytest.raises(Interruption):
        run(checkpoint_dir=tmp_path, callbacks=[StopAt(8)])
    model = run(checkpoint_dir=tmp_path, resume=True, plan_kwargs={"lr": 0.0})
    saved = torch.load(checkpoints_in(tmp_path)[0] / "training.ckpt", weights_only=True)["state_dict"]
    for name, weight in model.module.named_parameters():
        assert torch.equal(weight, saved[f"module.{name}"])


def test_resume_with_other_groups_of_weights_is_refused(tmp_path: Path) -> None:
    run(max_epochs=1, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="trained 2 groups of weights, this run has 4: freeze=, lora= or head_lr"):
        run(checkpoint_dir=tmp_path, resume=True, plan_kwargs={"head_lr": 1e-2})


def test_checkpoints_need_no_unpickler(tmp_path: Path) -> None:
    run(max_epochs=1, checkpoint_dir=tmp_path)
    content = torch.load(checkpoints_in(tmp_path)[-1] / "training.ckpt", weights_only=True)
    assert {"state_dict", "optimizer_states", "lr_schedulers", "loops"} <= content.keys()


def test_resume_never_runs_a_pickle(tmp_path: Path) -> None:
    class Exploit:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (tmp_path / "ran",)

    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    torch.save({"state_dict": {}, "sfm_training": Exploit()}, folder / "training.ckpt")
    with pytest.raises(Exception, match="weights_only|WeightsUnpickler|Unsupported global"):
        run(checkpoint_dir=tmp_path, resume=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"resume": True}, "needs checkpoint_dir=", id="no folder"),
        pytest.param(
            {"resume": "no_such_folder"}, "Did not find a checkpoint in resume='no_such_folder'", id="missing"
        ),
    ],
)
def test_resume_names_what_is_missing(options: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(**options)


def test_resume_refuses_other_data(tmp_path: Path) -> None:
    run(max_epochs=1, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="run on 60 cells, but adata has 50"):
        run(50, checkpoint_dir=tmp_path, resume=True)


_SCRIPT = """
import os, sys
sys.path.insert(0, {tests!r})
from test_resume import killed_when_written, run
for checkpoint in ("checkpoint-4", "checkpoint-10"):
    killed_when_written(
        {folder!r} + "/" + checkpoint, lambda: run(checkpoint_dir={folder!r}, checkpoint_every=2, resume=True)
    )
"""


def killed_when_written(checkpoint: str, function: Callable[[], object]) -> None:
    """Kill a child that runs a function once it has written a checkpoint."""
    pid = os.fork()
    if pid == 0:
        function()
        os._exit(0)
    deadline = time.monotonic() + 120
    while not (Path(checkpoint) / "training.ckpt").exists():
        assert time.monotonic() < deadline
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the run ended before it could be killed"
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")
def test_killed_process_goes_on(whole: MaskedCellModel, tmp_path: Path) -> None:
    """SIGKILL at whatever point, twice; the third run ends with the weights of an undisturbed one."""
    script = _SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same(run(checkpoint_dir=tmp_path, checkpoint_every=2, resume=True), whole)
