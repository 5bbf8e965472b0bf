"""Categories of cells as numbers, the same over several files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from natsort import natsorted

from sfm._categories import category_names, names_in_order

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Categories:
    """What the numbers in a column of codes mean.

    Parameters
    ----------
    key
        Column of `obs` that they are from.
    names
        Name of each category; category `i` has the number `i`.
    """

    key: str
    names: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {"key": self.key, "names": list(self.names)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Categories:
        """Make what `to_dict` described.

        Parameters
        ----------
        fields
            What `to_dict` returned.
        """
        return cls(fields["key"], tuple(fields["names"]))


class NamedValues(NamedTuple):
    """Names of the categories of some cells, NaN where there is none, and the order of the categories."""

    names: pd.Series
    order: list[str]


def read_column(obs: pd.DataFrame, key: str) -> NamedValues:
    """Read a column as names of categories.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If the column holds measurements.
    """
    if key not in obs:
        msg = f"Did not find obs[{key!r}]. Columns present: {', '.join(map(repr, obs.columns)) or 'none'}."
        raise KeyError(msg)
    return NamedValues(category_names(obs[key], slot=f"obs[{key!r}]"), names_in_order(obs[key]))


def encode_columns(columns: Sequence[NamedValues], key: str) -> tuple[np.ndarray, Categories]:
    """Number the categories of several columns, one after the other.

    Their order is that of the columns if it is the same in all, and else the natural one. Cells in no category have the
    number -1.

    Parameters
    ----------
    columns
        The same column of several tables.
    key
        Its name.

    Returns
    -------
    Numbers, in the smallest integer type that holds them, and what they mean.
    """
    orders = [column.order for column in columns]
    names = orders[0] if all(order == orders[0] for order in orders) else natsorted(set().union(*orders))
    occurring = set().union(*(column.names.dropna() for column in columns))
    names = [name for name in names if name in occurring]
    dtype = next(kind for kind in (np.int8, np.int16, np.int32) if len(names) <= np.iinfo(kind).max)
    codes = [pd.Categorical(column.names, categories=names).codes.astype(dtype) for column in columns]
    return np.concatenate(codes), Categories(key, tuple(names))
