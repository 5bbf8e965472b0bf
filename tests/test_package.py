"""What the metadata, the documentation and the constraints promise about each other."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sfm

ROOT = Path(__file__).parents[1]
NAMESPACES = ["sfm", *(f"sfm.{name}" for name in sfm.__all__ if isinstance(getattr(sfm, name), type(sfm)))]


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def requirements(pyproject: dict[str, Any]) -> dict[str, list[Requirement]]:
    project = pyproject["project"]
    by_group = {"": project["dependencies"], **project["optional-dependencies"]}
    return {group: [Requirement(line) for line in lines] for group, lines in by_group.items()}


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_requirements_are_lower_bounds(requirements: dict[str, list[Requirement]]) -> None:
    operators = {s.operator for lines in requirements.values() for line in lines for s in line.specifier}
    assert operators == {">="}
    assert all(line.specifier for lines in requirements.values() for line in lines)


def test_groups_repeat_the_extras(pyproject: dict[str, Any]) -> None:
    extras = pyproject["project"]["optional-dependencies"]
    groups = pyproject["dependency-groups"]
    assert {name: groups[name] for name in ("doc", "test")} == {name: extras[name] for name in ("doc", "test")}


def test_constraints_satisfy_the_requirements(requirements: dict[str, list[Requirement]], pins: dict[str, str]) -> None:
    needed = [line for group in ("", "doc", "test") for line in requirements[group]]
    unmet = [str(line) for line in needed if not line.specifier.contains(pins.get(canonicalize_name(line.name), "0"))]
    assert unmet == []


def test_constraints_leave_local_builds_free(pins: dict[str, str]) -> None:
    assert [f"{name}=={pin}" for name, pin in pins.items() if "+" in pin] == []


def test_one_version(pyproject: dict[str, Any]) -> None:
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)
    assert cited is not None
    assert pyproject["project"]["version"] == cited[1] == version("sfm-tools") == sfm.__version__


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 100


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_public_names_are_documented(namespace: str) -> None:
    pages = "\n".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    listed = {identity(name) for name in re.findall(r"^    ([\w.]+)$", pages, flags=re.MULTILINE)}
    # Constants are shown by `sfm.get`; a name that can be reached in two ways has one page.
    names = [name for name in import_module(namespace).__all__ if not name.isupper()]
    missing = [
        name for name in names if f"{namespace}.{name}" not in NAMESPACES and identity(name, namespace) not in listed
    ]
    assert missing == []


def identity(name: str, root: str = "sfm") -> int:
    """Identity of the object at a dotted path."""
    return id(attrgetter(name)(import_module(root)))
