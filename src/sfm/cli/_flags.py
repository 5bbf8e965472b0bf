"""Messages of functions, which name their arguments, in the words of the command line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping

# Dests of a command that are no options of its function.
_NO_OPTIONS = ("run", "verbosity", "debug", "input", "reference")
_CODE_OR_TEXT = re.compile(r"`(?P<code>[^`]*)`|(?P<text>[^`]+|`)")
_VALUE = r"""'[^']*'|"[^"]*"|True|False|None|\{[^}]*\}|-?\d+(?:\.\d+)?"""
_ARGUMENT = re.compile(rf"(?<![\w.])(?P<name>\w+)=(?P<value>{_VALUE}|)")

# A dictionary in Python, options of their own here.
_REFERENCE = "reference_kwargs"
_OF_REFERENCE = {"layer": "NAME", "use_raw": "", "gene_symbols": "COLUMN"}
_ENTRY = re.compile(rf"\{{'(?P<name>{'|'.join(_OF_REFERENCE)})': (?P<value>{_VALUE}|\.\.\.)\}}")


def flags_of(args: Namespace) -> dict[str, str]:
    """Flags of the command that was given, by the name of the argument that each stands for."""
    return {name: f"--{name.replace('_', '-')}" for name in vars(args) if name not in _NO_OPTIONS}


def in_flags(message: str, flags: Mapping[str, str]) -> str:
    """Name flags where a message names arguments; calls of functions stay as they are."""

    def translated(part: re.Match[str]) -> str:
        code = part["code"]
        if code is None:
            return _ARGUMENT.sub(flag, part["text"])
        if "(" in code:
            return part[0]
        if code == _REFERENCE:
            return f"`{flag_of_reference('')}`"
        return f"`{flags[code] if code in flags else _ARGUMENT.sub(flag, code)}`"

    def flag(argument: re.Match[str]) -> str:
        name, value = argument["name"], argument["value"]
        if name == _REFERENCE and "reference_layer" in flags:
            return flag_of_reference(value)
        if name not in flags:
            return argument[0]
        match value:
            case "" | "True":
                return flags[name]
            case "False" | "None":
                return f"no {flags[name]}"
            case _:
                return f"{flags[name]} {value}"

    return _CODE_OR_TEXT.sub(translated, message)


def flag_of_reference(value: str) -> str:
    """Flag for a value of `reference_kwargs`."""
    if value == "{}":
        return "--reference-layer X"
    entry = _ENTRY.fullmatch(value)
    if entry is None:
        return "--reference-..."
    shown = _OF_REFERENCE[entry["name"]] if entry["value"] in ("...", "True") else entry["value"]
    return f"--reference-{entry['name'].replace('_', '-')} {shown}".strip()
