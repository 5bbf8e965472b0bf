"""Training on files in two processes on the CPU."""

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

SCRIPT = Path(__file__).parent / "datamodule_distributed_run.py"
N = (60, 47)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[("ddp", "files"), ("ddp", "cached"), ("fsdp", "files")], ids="-".join)
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("distributed")
    for i, n in enumerate(N):
        toy_cells(n, seed=i).write_h5ad(folder / f"{i}.h5ad")
    strategy, cached = request.param
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*start, str(SCRIPT), str(folder), strategy, "2", cached],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{strategy}-{int(cached == 'cached')}-{rank}.json").read_text()) for rank in range(2)]


def test_each_cell_once_per_epoch_over_the_processes(together: list[dict[str, Any]]) -> None:
    first, second = together
    held_out: list[int] = []
    for epoch in ("0", "1"):
        train = first["cells"][f"train {epoch}"] + second["cells"][f"train {epoch}"]
        assert len(train) == len(set(train)) == first["n_train"]
        assert abs(len(first["cells"][f"train {epoch}"]) - len(second["cells"][f"train {epoch}"])) <= 1
        held_out = first["cells"][f"validation {epoch}"] + second["cells"][f"validation {epoch}"]
        assert sorted(train + held_out) == list(range(sum(N)))
    assert first["cells"]["train 0"] != first["cells"]["train 1"]


def test_processes_end_with_the_same_model_that_has_learnt(together: list[dict[str, Any]]) -> None:
    first, second = together
    np.testing.assert_array_equal(first["vectors"], second["vectors"])
    loss = first["history"]["validation_loss"]
    assert loss[-1] < loss[0]
