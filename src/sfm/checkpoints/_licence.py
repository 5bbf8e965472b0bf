"""Licences that exclude commercial use, shown when such a model is loaded."""

from __future__ import annotations

from sfm._warn import warn
from sfm.checkpoints._entries import CATALOGUE

_shown: set[str] = set()


class NonCommercialWarning(UserWarning):
    """A model was loaded whose licence excludes commercial use."""


def show_licence(family: str) -> None:
    """Warn of the licence of a family's models, once per process."""
    entry = next((entry for entry in CATALOGUE if entry.family == family and entry.commercial_use is False), None)
    if entry is None or family in _shown:
        return
    _shown.add(family)
    msg = (
        f"Models such as {entry.name!r} are under the {entry.licence}, which excludes commercial use of the weights and "
        f"of what is made with them. Read it before you go on: {entry.source.page}."
    )
    warn(msg, NonCommercialWarning)
