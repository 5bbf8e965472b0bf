"""Training in two processes on the CPU: copies of the model (DDP), and shares of it (FSDP)."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfm.datasets import toy_cells
from sfm.model import MaskedCellModel
from sfm.train._checkpoint import checkpoints_in

SCRIPT = Path(__file__).parent / "distributed_run.py"
N_IN_FILES = (60, 47)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the processes read and write."""
    folder = tmp_path_factory.mktemp("distributed")
    for i, n in enumerate(N_IN_FILES):
        toy_cells(n, seed=i).write_h5ad(folder / f"{i}.h5ad")
    (folder / "requests").mkdir()
    return folder


@pytest.fixture(scope="module")
def processes(folder: Path) -> tuple[dict[str, Any], ...]:
    """What each of two processes saw, by scenario; they are started once."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*start, str(SCRIPT), str(folder)], capture_output=True, text=True, timeout=600, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return tuple(json.loads((folder / f"{rank}.json").read_text()) for rank in range(2))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = runpy.run_path(str(SCRIPT))["on_memory"](tmp_path_factory.mktemp("alone"), "auto", 1)
    return found


@pytest.fixture(params=["ddp", "fsdp"])
def strategy(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def together(strategy: str, processes: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    return [results[strategy] for results in processes]


def test_each_cell_once_per_epoch(together: list[dict[str, Any]]) -> None:
    first, second = together
    for epoch in ("train 0", "train 1", "train 2"):
        assert sorted(first["cells"][epoch] + second["cells"][epoch]) == sorted(first["train"])
        assert len(first["cells"][epoch]) == len(second["cells"][epoch])


@pytest.mark.parametrize("name", ["train_loss", "validation_loss", "elbo_validation"])
def test_loss_is_that_of_one_process(alone: dict[str, Any], together: list[dict[str, Any]], name: str) -> None:
    """Two processes are one process that accumulates two minibatches per step, hidden genes included."""
    loss, expected = (result["history"][name] for result in (together[0], alone))
    assert expected[-1] < expected[0]
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    np.testing.assert_allclose(together[0]["vectors"], alone["vectors"], atol=1e-4)


def test_callbacks_are_told_the_norm_of_the_whole_gradient(
    alone: dict[str, Any], together: list[dict[str, Any]]
) -> None:
    assert len(alone["norms"]) == 27
    for result in together:
        np.testing.assert_allclose(result["norms"], alone["norms"], rtol=1e-3)


def test_processes_end_with_the_same_usable_model(folder: Path, strategy: str, together: list[dict[str, Any]]) -> None:
    first, second = together
    np.testing.assert_array_equal(first["vectors"], second["vectors"])
    loaded = MaskedCellModel.load(f"{folder}/{strategy}-model-1", adata=toy_cells(200), accelerator="cpu")
    np.testing.assert_allclose(loaded.get_latent_representation(), first["vectors"], atol=1e-5)


def test_checkpoint_of_several_processes_goes_on_in_one(
    folder: Path, strategy: str, together: list[dict[str, Any]]
) -> None:
    adata = toy_cells(200)
    MaskedCellModel.setup_anndata(adata, max_length=48)
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = MaskedCellModel(adata, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, **no_dropout)
    last = checkpoints_in(folder / strategy)[-1]
    model.train(max_epochs=4, batch_size=20, resume=last, accelerator="cpu", enable_progress_bar=False)
    loss = model.history["validation_loss"].to_numpy(dtype=float).ravel()
    np.testing.assert_allclose(loss[:3], together[0]["history"]["validation_loss"])
    assert len(loss) == 4


@pytest.fixture(params=["ddp files", "ddp cached", "fsdp files"])
def on_files(request: pytest.FixtureRequest, processes: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    return [results[request.param] for results in processes]


def test_each_cell_of_the_files_once_per_epoch(on_files: list[dict[str, Any]]) -> None:
    first, second = on_files
    for epoch in ("0", "1"):
        train = first["cells"][f"train {epoch}"] + second["cells"][f"train {epoch}"]
        assert len(train) == len(set(train)) == first["n_train"]
        assert abs(len(first["cells"][f"train {epoch}"]) - len(second["cells"][f"train {epoch}"])) <= 1
        held_out = first["cells"][f"validation {epoch}"] + second["cells"][f"validation {epoch}"]
        assert sorted(train + held_out) == list(range(sum(N_IN_FILES)))
    assert first["cells"]["train 0"] != first["cells"]["train 1"]


def test_processes_end_with_the_same_model_that_has_learnt_from_files(on_files: list[dict[str, Any]]) -> None:
    first, second = on_files
    np.testing.assert_array_equal(first["vectors"], second["vectors"])
    loss = first["history"]["validation_loss"]
    assert loss[-1] < loss[0]


def test_what_a_callback_asks_for_in_one_process_is_done_in_all(
    folder: Path, processes: tuple[dict[str, Any], ...]
) -> None:
    first, second = (results["requests"] for results in processes)
    assert first["agreed"] == second["agreed"]
    n_steps, n_tokens, _ = first["agreed"]
    assert n_steps == 2
    # Two steps of two minibatches of nine cells with 32 tokens at most.
    assert 2 * 2 * 9 * 16 < n_tokens <= 2 * 2 * 9 * 32
    assert [(result["rank"], result["is first"]) for result in (first, second)] == [(0, True), (1, False)]
    assert (folder / "requests" / "checkpoint-1" / "trainer_state.json").exists()
    # One process writes.
    assert len(list((folder / "requests" / "runs").iterdir())) == 1
