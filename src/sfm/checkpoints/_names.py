"""Tables from the names that weights have in a published file to those they have here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    #: `{}` stands for a number or for what both names share, `None` for a weight that is not needed.
    Names = Mapping[str, str | None]


def rename(weights: Mapping[str, Tensor], names: Names, *, prefix: str = "") -> dict[str, Tensor]:
    """Give weights the names of a table.

    Parameters
    ----------
    weights
        Weights of a published file.
    names
        New name by old name. Each `{}` of the old name stands for any text, which replaces the `{}` of the new one in
        their order. The first that fits decides.
    prefix
        What all old names may begin with beyond the table.

    Returns
    -------
    The weights that are needed. Names that the table lacks stay as they are, so that the load report tells of them.
    """
    rules = [(_pattern(old), new) for old, new in names.items()]
    renamed: dict[str, Tensor] = {}
    for old, tensor in weights.items():
        new = _new_name(old.removeprefix(prefix), rules)
        if new is not None:
            renamed[new] = tensor
    return renamed


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile("(.+)".join(map(re.escape, name.split("{}"))))


def _new_name(name: str, rules: list[tuple[re.Pattern[str], str | None]]) -> str | None:
    for pattern, new in rules:
        found = pattern.fullmatch(name)
        if found:
            return None if new is None else new.format(*found.groups())
    return name
