"""Reading the labels of a reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from natsort import natsorted

from sfm import _logging as logg
from sfm._categories import category_names
from sfm._warn import warn

if TYPE_CHECKING:
    from anndata import AnnData

#: Label of cells that are rejected.
UNKNOWN = "unknown"

_SHOWN = 5


@dataclass(frozen=True, eq=False)
class ReferenceLabels:
    """Which cells of a reference are labelled, and how."""

    names: tuple[str, ...]
    codes: np.ndarray
    """Number of the label of each labelled cell, int64 of shape `(n_labelled,)`."""
    labelled: np.ndarray
    """Which cells have a label, booleans of shape `(n_obs,)`."""


def read_labels(adata: AnnData, labels_key: str) -> ReferenceLabels:
    """Read the labels in `adata.obs[labels_key]`; cells without a label, or with an empty one, are left out.

    So are those labelled `"unknown"`, since that is what rejected cells are called.

    Raises
    ------
    KeyError
        If the column is not there.
    ValueError
        If the labels are measurements, or fewer than two are left.

    Warns
    -----
    UserWarning
        If labels are numbers or `"unknown"`, or a label has one cell only.
    """
    if labels_key not in adata.obs:
        known = ", ".join(map(repr, adata.obs.columns)) or "none"
        msg = (
            f"The reference has no obs[{labels_key!r}]. Columns present: {known}. Pass labels_key= with the one that "
            "holds its labels."
        )
        raise KeyError(msg)
    names = category_names(adata.obs[labels_key], slot=f"obs[{labels_key!r}] of the reference", warn_of_numbers=True)
    labelled = (names.notna() & (names != UNKNOWN)).to_numpy()
    values = names[labelled]
    present = natsorted(set(values))
    _report_left_out(labelled, int((names == UNKNOWN).sum()), labels_key)
    _refuse_few(present, labels_key, n_labelled=int(labelled.sum()))
    codes = pd.Index(present).get_indexer(values).astype(np.int64)
    _report_single_cells(present, codes, labels_key)
    return ReferenceLabels(tuple(present), codes, labelled)


def _report_left_out(labelled: np.ndarray, n_unknown: int, labels_key: str) -> None:
    n_missing = int((~labelled).sum())
    if n_unknown:
        msg = (
            f"{n_unknown} cells of the reference are labelled {UNKNOWN!r} in obs[{labels_key!r}], which is what rejected "
            "cells are called. They are left out; give the label another name to use it."
        )
        warn(msg)
    if n_missing:
        logg.info(f"    {n_missing} of {len(labelled)} reference cells have no label and are left out")


def _refuse_few(names: list[str], labels_key: str, *, n_labelled: int) -> None:
    if len(names) < 2:
        found = f"only the label {names[0]!r}" if names else "no label at all"
        msg = (
            f"The reference has {found} in obs[{labels_key!r}] ({n_labelled} labelled cells). Two labels are needed at "
            "least: pass labels_key= with another column, or a reference with more types."
        )
        raise ValueError(msg)


def _report_single_cells(names: list[str], codes: np.ndarray, labels_key: str) -> None:
    counts = np.bincount(codes, minlength=len(names))
    single = [repr(names[i]) for i in np.flatnonzero(counts == 1)]
    if single:
        shown = ", ".join(single[:_SHOWN]) + (", ..." if len(single) > _SHOWN else "")
        msg = (
            f"{len(single)} labels in obs[{labels_key!r}] have one reference cell only ({shown}). They can be given to "
            "cells, but how well they are told apart cannot be measured."
        )
        warn(msg)
