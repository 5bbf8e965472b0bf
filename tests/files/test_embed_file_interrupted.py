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

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")


def outcome(scenario: str, folder: Path, suffix: str, option: str) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", str(SCRIPT), scenario, str(folder), suffix, option]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("seed", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_killed_at_any_moment_a_run_goes_on_to_the_same_bytes(tmp_path: Path, seed: str) -> None:
    found = outcome("any_moment", tmp_path, ".h5ad", seed)
    assert found["status"] == 0
    assert found["kills"] >= 3
    assert not found["early"], "an output was there before it was complete"
    assert found["parts"] == sorted(found["parts"]), "finished parts were lost"
    assert found["same"]


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "copied"), [(".h5ad", "no"), (".h5ad", "copy"), (".zarr", "no"), (".zarr", "copy")])
def test_killed_at_each_file_operation_a_run_goes_on_to_the_same_bytes(
    tmp_path: Path, suffix: str, copied: str
) -> None:
    found = outcome("every_step", tmp_path, suffix, copied)
    assert found["steps"] > 20
    assert found["wrong"] == []


@pytest.mark.parametrize(
    ("limit", "parts_fit"),
    [pytest.param("2500", False, id="parts do not fit"), pytest.param("6000", True, id="parts fit")],
)
def test_full_disk_leaves_input_and_finished_parts(tmp_path: Path, limit: str, parts_fit: bool) -> None:
    found = outcome("full_disk", tmp_path, ".h5ad", limit)
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
