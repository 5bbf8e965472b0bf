"""Settings of classifiers that have no meaning are refused before anything is computed."""

from __future__ import annotations

from numbers import Real
from typing import Any, TypeGuard

import numpy as np


def is_number(value: Any) -> TypeGuard[float]:
    """Whether something is a number, which `True` is not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def checked_switch(name: str, value: Any) -> bool:
    """Return an option that is on or off, or raise; `"no"` would count as on."""
    if not isinstance(value, bool | np.bool_):
        msg = f"{name}={value!r} is neither True nor False."
        raise TypeError(msg)
    return bool(value)
