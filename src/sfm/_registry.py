"""The one extension mechanism: names that stand for objects, imported when asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any


@dataclass
class Registry:
    """Lazy table of `name -> "module:object"`, extended by the entry points of other packages.

    A name of sfm's own wins over an entry point of the same name.
    """

    kind: str
    entries: dict[str, str] = field(default_factory=dict)
    entry_point_group: str | None = None

    def _targets(self) -> dict[str, str]:
        plugins = _plugins(self.entry_point_group) if self.entry_point_group else {}
        return plugins | self.entries

    def names(self) -> list[str]:
        """Return the known names, sorted."""
        return sorted(self._targets())

    def load(self, name: str) -> Any:
        """Import and return the object registered under `name`."""
        targets = self._targets()
        if name not in targets:
            msg = f"Unknown {self.kind} {name!r}. Known: {', '.join(map(repr, self.names()))}."
            raise ValueError(msg)
        module, _, attribute = targets[name].partition(":")
        return getattr(import_module(module), attribute)


@cache
def _plugins(group: str) -> dict[str, str]:
    """Entry points of a group; finding them reads the metadata of all that is installed."""
    return {entry.name: entry.value for entry in entry_points(group=group)}
