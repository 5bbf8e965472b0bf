"""The commands of the page about the command line run, and print what it says."""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from sfm.cli import main
from sfm.datasets import toy_cells

if TYPE_CHECKING:
    import pytest

PAGE = Path(__file__).parents[1] / "docs" / "command_line.md"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def test_commands_print_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cells = toy_cells(40)
    cells.layers["counts"] = cells.X.copy()
    cells.write_h5ad("cells.h5ad")
    toy_cells(60, seed=1).write_h5ad("reference.h5ad")
    blocks = re.findall(r"```console\n\$ sfm (.*?)\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) >= 6
    for command, expected in blocks:
        assert main([*shlex.split(command)]) == 0
        printed = capsys.readouterr().out
        assert doctest.OutputChecker().check_output(expected, printed, FLAGS), f"sfm {command}:\n{printed}"
