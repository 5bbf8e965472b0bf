"""Imports go one way, and `import sfm` is light."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "sfm"
FILES = sorted(SOURCE.rglob("*.py"))

# What each part may import, besides itself. Parts beside each other do not know each other.
ROOTS = {"_private", "protocols"}
BELOW_PP = ROOTS | {"genes", "tokenizers", "data", "nn", "checkpoints"}
BELOW_TRAIN = BELOW_PP | {"inference", "annotation", "metrics", "pp"}
MAY_IMPORT = {
    "_private": {"protocols"},
    "protocols": {"_private"},
    "genes": ROOTS,
    "tokenizers": ROOTS | {"genes"},
    "data": ROOTS | {"genes", "tokenizers"},
    "nn": ROOTS | {"genes", "tokenizers"},
    "checkpoints": ROOTS | {"genes", "tokenizers", "data", "nn"},
    "metrics": ROOTS,
    "inference": BELOW_PP,
    "annotation": BELOW_PP | {"inference", "metrics"},
    "pp": BELOW_PP,
    "sentences": BELOW_TRAIN,
    "tl": BELOW_TRAIN,
    "files": BELOW_TRAIN | {"tl"},
    "get": BELOW_TRAIN | {"tl"},
    "datasets": BELOW_PP,
    "train": BELOW_TRAIN,
    "model": BELOW_TRAIN | {"tl", "train"},
    "pl": BELOW_TRAIN | {"tl", "get"},
    "cli": BELOW_TRAIN | {"tl", "files", "get", "datasets", "train", "model", "pl"},
    "__main__": {"cli"},
}
# These take seconds, or bring in what a user of one part does not want.
HEAVY = [
    "lightning",
    "matplotlib.pyplot",
    "muon",
    "numba.core",
    "scanpy",
    "scvi",
    "sklearn",
    "torch",
    "transformers.modeling_utils",
]
SLOWEST = 1.0  # seconds beyond `import anndata`


def part_of(path: Path) -> str:
    """Name of the part of sfm that a file belongs to."""
    first = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    return "_private" if first.startswith("_") and first != "__main__" else first


def parts_reached(module: str, names: tuple[str, ...]) -> set[str]:
    """Parts of sfm that `from module import names` reaches; `import sfm` reaches all, so it has no place below it."""
    first = module.split(".")[1:2] or names or ["sfm"]
    return {"_private" if name.startswith("_") else name for name in first}


@cache
def imported(path: Path) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """All `(module, names)` that a file imports, at its top and inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append((node.module or "", tuple(alias.name for alias in node.names)))
    return tuple(found)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_layers(path: Path) -> None:
    if path == SOURCE / "__init__.py":
        return
    part = part_of(path)
    assert part in MAY_IMPORT, f"say in MAY_IMPORT where {part!r} stands"
    own = [(module, names) for module, names in imported(path) if module.split(".")[0] == "sfm"]
    reached = set().union(*(parts_reached(module, names) for module, names in own))
    assert reached - {part} - MAY_IMPORT[part] == set()


@pytest.mark.parametrize("package", ["lightning", "scvi"])
def test_training_alone_needs(package: str) -> None:
    users = {part_of(path) for path in FILES for module, _ in imported(path) if module.split(".")[0] == package}
    assert users <= {"train", "model", "metrics"}


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_import_is_light() -> None:
    code = "import sys, anndata; before = set(sys.modules); import sfm; print(*sorted(set(sys.modules) - before))"
    loaded = run_python(code).split()
    assert "sfm" in loaded
    assert [name for name in loaded if name.startswith(tuple(HEAVY))] == []


def test_import_is_fast() -> None:
    code = "import time, anndata; start = time.perf_counter(); import sfm; print(time.perf_counter() - start)"
    assert statistics.median(float(run_python(code)) for _ in range(3)) < SLOWEST
