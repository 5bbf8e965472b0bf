"""The page about objectives runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from sfm.nn import OBJECTIVES

PAGE = Path(__file__).parents[2] / "docs" / "objectives.md"


def test_examples_run_in_order() -> None:
    torch.manual_seed(0)
    text = PAGE.read_text()
    blocks = [
        block for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) if "torch.compile" not in block
    ]
    assert len(blocks) > len(OBJECTIVES)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert {row.model.__name__ for row in OBJECTIVES.values()} <= set(re.findall(r"CellFor\w+", "\n".join(blocks)))
