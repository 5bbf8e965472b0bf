"""Licences that exclude commercial use, shown when such a model is loaded."""

from __future__ import annotations

from sfm._warn import warn
from sfm.checkpoints._entries import CATALOGUE

_shown: set[str] = set()


class NonCommercialWarning(UserWarning):
    """A model was loaded whose licence excludes commercial use."""


def show_licence(family: str, *, name: str = "") -> None:
    """Warn of the licence of a model, once per process and family.

    Where the name does not tell which model of a family it is, that of the family counts if all its models exclude
    commercial use.
    """
    of_family = [entry for entry in CATALOGUE if entry.family == family]
    named = [entry for entry in of_family if name in (entry.name, getattr(entry.source, "repo", None))]
    found = named or of_family
    if family in _shown or not found or any(entry.commercial_use is not False for entry in found):
        return
    entry = found[0]
    _shown.add(family)
    msg = (
        f"Models such as {entry.name!r} are under the {entry.licence}, which excludes commercial use of the weights and "
        f"of what is made with them. Read it before you go on: {entry.source.page}."
    )
    warn(msg, NonCommercialWarning)
