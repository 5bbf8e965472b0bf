"""Values of a column read as names of categories: one rule for labels of cells, of genes and of references."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from natsort import natsorted

from sfm._warn import warn

if TYPE_CHECKING:
    from collections.abc import Iterable

_SHOWN = 10


def category_names(column: pd.Series, *, slot: str, warn_of_numbers: bool = False) -> pd.Series:
    """Return the values of a column as strings, NaN where there is none or a blank one.

    Parameters
    ----------
    column
        A column of `obs` or `var`.
    slot
        Where it is, for messages.
    warn_of_numbers
        Warn if the values are whole numbers.

    Raises
    ------
    ValueError
        If the values are measurements, two of different types have the same name, or the column is there twice.
    """
    if isinstance(column, pd.DataFrame):
        msg = f"{slot} is there {column.shape[1]} times. Rename all of these columns but one, or remove them."
        raise ValueError(msg)
    values = column.cat.categories.to_series() if isinstance(column.dtype, pd.CategoricalDtype) else column
    _refuse_measurements(values.dropna(), slot)
    numbers = pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype)
    if warn_of_numbers and numbers and values.notna().any():
        warn(f"{slot} holds whole numbers; they are taken as names of classes, not as quantities.")
    names = {value: name_of(value) for value in pd.unique(column.dropna())}
    if len(set(names.values())) < len(names):
        twice = sorted(name for name, n in pd.Series(list(names.values())).value_counts().items() if n > 1)
        msg = f"{slot} has labels of different types with one name: {listed(twice)}. Rename one of them."
        raise ValueError(msg)
    return column.astype(object).map({value: name for value, name in names.items() if name.strip()}).astype(object)


def names_in_order(column: pd.Series) -> list[str]:
    """Names in the order of the categories of a column, where it has any, and else in natural order."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return [name_of(value) for value in column.cat.categories]
    return natsorted({name_of(value) for value in pd.unique(column.dropna())})


def name_of(value: Any) -> str:
    """Name of one value."""
    # A column of integers with gaps comes as floats.
    return str(int(value)) if isinstance(value, float | np.floating) and float(value).is_integer() else str(value)


def listed(names: Iterable[Any]) -> str:
    """Write out the first names for a message."""
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more


def _refuse_measurements(values: pd.Series, slot: str) -> None:
    if not pd.api.types.is_float_dtype(values.dtype):
        return
    fractional = values[values % 1 != 0]
    if len(fractional):
        msg = (
            f"{slot} holds numbers such as {float(fractional.iloc[0])!r}: measurements rather than labels. Name classes, "
            "for example by `pandas.cut`, and pass that column."
        )
        raise ValueError(msg)
