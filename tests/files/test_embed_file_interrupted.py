"""Runs of `embed_file` that are killed or run out of disk: nothing finished is lost, and nothing unfinished passes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent / "interrupted_runs.py"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What came of each scenario; one process runs all of them."""
    command = [sys.executable, "-W", "ignore", str(SCRIPT), str(tmp_path_factory.mktemp("interrupted"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("seed", ["0", "1"])
def test_killed_at_any_moment_a_run_goes_on_to_the_same_bytes(outcomes: dict[str, dict[str, Any]], seed: str) -> None:
    found = outcomes[f"any_moment .h5ad {seed}"]
    assert found["status"] == 0
    assert found["kills"] >= 3
    assert not found["early"], "an output was there before it was complete"
    assert found["parts"] == sorted(found["parts"]), "finished parts were lost"
    assert found["same"]


@pytest.mark.parametrize(
    ("suffix", "copied", "n_steps"),
    [(".h5ad", "no", 30), (".h5ad", "copy", 7), (".zarr", "no", 7), (".zarr", "copy", 7)],
)
def test_killed_at_each_file_operation_a_run_goes_on_to_the_same_bytes(
    outcomes: dict[str, dict[str, Any]], suffix: str, copied: str, n_steps: int
) -> None:
    found = outcomes[f"every_step {suffix} {copied}"]
    assert len(found["steps"]) >= n_steps
    assert found["wrong"] == []


@pytest.mark.parametrize(
    ("limit", "parts_fit"),
    [pytest.param("2500", False, id="parts do not fit"), pytest.param("6000", True, id="parts fit")],
)
def test_full_disk_leaves_input_and_finished_parts(
    outcomes: dict[str, dict[str, Any]], limit: str, parts_fit: bool
) -> None:
    found = outcomes[f"full_disk .h5ad {limit}"]
    assert found["status"] == 1
    last = found["message"].splitlines()[-1]
    assert "Could not write" in last
    assert "File too large" in last
    assert "Make room, and run the same call again." in last
    assert (len([name for name in found["parts"] if name.startswith("part-")]) == 3) == parts_fit
    assert not [name for name in found["parts"] if "assembled" in name or name.endswith(".new")]
    assert ("What is finished is kept in" in last) == parts_fit
    assert found["input unchanged"]
    assert found["again"] == 0
    assert found["same"]
