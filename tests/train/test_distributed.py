"""Training in two processes on the CPU: copies of the model (DDP), and shares of it (FSDP)."""

from __future__ import annotations

import json
import os
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

pytestmark = pytest.mark.slow


def run(folder: Path, strategy: str, n_processes: int) -> list[dict[str, Any]]:
    start = [sys.executable]
    if n_processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_processes}"]
    command = [*start, str(SCRIPT), str(folder), strategy, str(n_processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{strategy}-{rank}.json").read_text()) for rank in range(n_processes)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Any]:
    return run(folder, "auto", 1)[0]


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def together(folder: Path, request: pytest.FixtureRequest) -> tuple[str, list[dict[str, Any]]]:
    return request.param, run(folder, request.param, 2)


def test_each_cell_once_per_epoch(together: tuple[str, list[dict[str, Any]]]) -> None:
    _, (first, second) = together
    for epoch in ("0", "1", "2"):
        assert sorted(first["cells"][epoch] + second["cells"][epoch]) == sorted(first["train"])
        assert len(first["cells"][epoch]) == len(second["cells"][epoch])


@pytest.mark.parametrize("name", ["train_loss", "validation_loss", "elbo_validation"])
def test_loss_is_that_of_one_process(
    alone: dict[str, Any], together: tuple[str, list[dict[str, Any]]], name: str
) -> None:
    """Two processes are one process that accumulates two minibatches per step, hidden genes included."""
    loss, expected = (result["history"][name] for result in (together[1][0], alone))
    assert expected[-1] < expected[0]
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    np.testing.assert_allclose(together[1][0]["vectors"], alone["vectors"], atol=1e-4)


def test_callbacks_are_told_the_norm_of_the_whole_gradient(
    alone: dict[str, Any], together: tuple[str, list[dict[str, Any]]]
) -> None:
    assert len(alone["norms"]) == 27
    for result in together[1]:
        np.testing.assert_allclose(result["norms"], alone["norms"], rtol=1e-3)


def test_processes_end_with_the_same_usable_model(folder: Path, together: tuple[str, list[dict[str, Any]]]) -> None:
    strategy, (first, second) = together
    np.testing.assert_array_equal(first["vectors"], second["vectors"])
    loaded = MaskedCellModel.load(f"{folder}/{strategy}-model-1", adata=toy_cells(200), accelerator="cpu")
    np.testing.assert_allclose(loaded.get_latent_representation(), first["vectors"], atol=1e-5)


def test_checkpoint_of_several_processes_goes_on_in_one(
    folder: Path, together: tuple[str, list[dict[str, Any]]]
) -> None:
    strategy, (first, _) = together
    adata = toy_cells(200)
    MaskedCellModel.setup_anndata(adata, max_length=48)
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = MaskedCellModel(adata, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, **no_dropout)
    last = checkpoints_in(folder / strategy)[-1]
    model.train(max_epochs=4, batch_size=20, resume=last, accelerator="cpu", enable_progress_bar=False)
    loss = model.history["validation_loss"].to_numpy(dtype=float).ravel()
    np.testing.assert_allclose(loss[:3], first["history"]["validation_loss"])
    assert len(loss) == 4
