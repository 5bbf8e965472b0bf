"""Signatures and docstrings of everything public; the rules for `pp` and `tl` are scanpy's."""

from __future__ import annotations

import inspect
import re
from dataclasses import is_dataclass
from importlib import import_module
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import pytest

import sfm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anndata import AnnData

MODULES = [
    "sfm",
    *(f"sfm.{name}" for name in sfm.__all__ if isinstance(getattr(sfm, name), ModuleType)),
    "sfm.checkpoints",
]
SLOTS = re.compile(r"^`adata\.(layers|obs|obsm|obsp|uns|var|varm|varp|X)\b", flags=re.MULTILINE)
POSITIONAL = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}


def public_objects() -> dict[str, Any]:
    """Functions and classes by name, once each."""
    named = (
        (f"{module}.{name}", getattr(import_module(module), name)) for module in MODULES for name in names_of(module)
    )
    found: dict[int, tuple[str, Any]] = {}
    for name, thing in named:
        if isinstance(thing, FunctionType | type):
            found.setdefault(id(thing), (name, thing))
    return dict(found.values())


def names_of(module: str) -> list[str]:
    names: list[str] = import_module(module).__all__
    return names


def own_members(name: str, cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that sfm defines; those inherited from other packages are not ours."""
    for owner in cls.__mro__:
        if not owner.__module__.startswith("sfm"):
            continue
        for key, member in vars(owner).items():
            function = getattr(member, "__func__", member)
            if not key.startswith("_") and isinstance(function, FunctionType | property):
                yield f"{name}.{key}", function


def runs_on_cells_alone(function: Callable[..., Any]) -> bool:
    """Whether `function(adata, copy=True)` is a complete call."""
    listed = inspect.signature(function).parameters
    return "copy" in listed and [p.default for p in listed.values()].count(inspect.Parameter.empty) == 1


def slots(adata: AnnData) -> set[tuple[str, str]]:
    parts = ("layers", "obs", "obsm", "obsp", "uns", "var", "varm", "varp")
    return {(part, key) for part in parts for key in getattr(adata, part)}


OBJECTS = public_objects()
MEMBERS = {
    path: member
    for name, thing in OBJECTS.items()
    if isinstance(thing, type)
    for path, member in own_members(name, thing)
}
FUNCTIONS = {name: thing for name, thing in OBJECTS.items() if isinstance(thing, FunctionType)}
SCANPY_STYLE = {name: thing for name, thing in FUNCTIONS.items() if name.startswith(("sfm.pp.", "sfm.tl."))}
WRITERS = {name: thing for name, thing in SCANPY_STYLE.items() if runs_on_cells_alone(thing)}
DOCUMENTED = OBJECTS | MEMBERS


def section(thing: Any, title: str) -> str:
    """Text of a section of a numpydoc docstring, `""` where it has none."""
    text = inspect.cleandoc(thing.__doc__ or "")
    match = re.search(rf"^{title}\n-+\n(.*?)(?=^\w[\w ]*\n-{{3,}}\n|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    return match[1].strip() if match else ""


def described_parameters(thing: Any) -> list[str]:
    """Names at the left margin of the Parameters section."""
    return [line for line in section(thing, "Parameters").splitlines() if line and not line.startswith(" ")]


def parameters(thing: Any) -> list[inspect.Parameter]:
    if isinstance(thing, property):
        return []
    signature = inspect.signature(thing.__init__ if isinstance(thing, type) else thing)
    return [p for p in signature.parameters.values() if p.name not in {"self", "cls"}]


def documents_init(thing: Any) -> bool:
    """Whether the signature is one that sfm wrote by hand; fields of dataclasses are described as attributes."""
    if not isinstance(thing, type):
        return True
    generated = is_dataclass(thing) or getattr(thing, "_is_protocol", False)
    return "__init__" in vars(thing) and not generated


@pytest.mark.parametrize("module", MODULES)
def test_all_names_exist(module: str) -> None:
    names = names_of(module)
    assert names == sorted(set(names), key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert [name for name in names if not hasattr(import_module(module), name)] == []


@pytest.mark.parametrize("name", SCANPY_STYLE)
def test_scanpy_signature(name: str) -> None:
    signature = inspect.signature(SCANPY_STYLE[name])
    listed = list(signature.parameters.values())
    assert sum(p.kind in POSITIONAL for p in listed) <= 3
    assert (listed[0].name, listed[0].annotation) in {("adata", "AnnData"), ("data", "AnnData | MuData")}
    copy = signature.parameters.get("copy")
    if copy is not None:
        assert copy.kind is inspect.Parameter.KEYWORD_ONLY
        assert copy.default is False
        plan = "EmbeddingPlan | " if "dry_run" in signature.parameters else ""
        assert signature.return_annotation == f"AnnData | {plan}None"


@pytest.mark.parametrize("name", SCANPY_STYLE)
def test_slots_are_named(name: str) -> None:
    returns = section(SCANPY_STYLE[name], "Returns")
    assert SLOTS.search(returns), f"Returns of {name} names no slot"


@pytest.mark.parametrize("name", WRITERS)
def test_written_slots_are_those_named(name: str) -> None:
    adata = sfm.datasets.toy_cells(20)
    before = slots(adata)
    written = slots(WRITERS[name](adata, copy=True)) - before
    returns = section(WRITERS[name], "Returns")
    assert written
    assert {f"`adata.{part}['{key}'" for part, key in written if f"`adata.{part}['{key}'" not in returns} == set()
    assert slots(adata) == before


@pytest.mark.parametrize("key_added", ["", "a/b", "..", "_index"])
@pytest.mark.parametrize(
    "name", [name for name in WRITERS if "key_added" in inspect.signature(WRITERS[name]).parameters]
)
def test_names_that_no_file_can_hold_are_refused(name: str, key_added: str) -> None:
    adata = sfm.datasets.toy_cells(20)
    before = slots(adata)
    with pytest.raises(ValueError, match=f"key_added='{key_added}' cannot be the name of a slot"):
        WRITERS[name](adata, key_added=key_added)
    assert slots(adata) == before


@pytest.mark.parametrize("name", DOCUMENTED)
def test_docstring(name: str) -> None:
    thing = DOCUMENTED[name]
    assert (thing.__doc__ or "").strip(), f"{name} has no docstring"
    described = described_parameters(thing)
    assert [line for line in described if " : " in line] == [], "types are in the annotations"
    if documents_init(thing):
        names = [word.strip(" *") for line in described for word in line.split(",")]
        assert names == [p.name for p in parameters(thing)]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_booleans_are_keyword_only(name: str) -> None:
    positional = [p for p in parameters(DOCUMENTED[name]) if p.kind in POSITIONAL]
    assert [p.name for p in positional if isinstance(p.default, bool)] == []
