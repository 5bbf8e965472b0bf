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

#: What missing values become where a column is turned into text, as by `.astype(str)`.
MISSING_TEXTS = ("nan", "NaN", "None", "<NA>")

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

    So are those labelled `"unknown"`, in capitals or not, since that is what rejected cells are called, and those whose
    label is the text of a missing value, such as `"nan"`.

    Raises
    ------
    KeyError
        If the column is not there.
    ValueError
        If the labels are measurements, or fewer than two are left.

    Warns
    -----
    UserWarning
        If labels are numbers, `"unknown"` or the text of a missing value, or a label has one cell only.
    """
    if labels_key not in adata.obs:
        known = ", ".join(map(repr, adata.obs.columns)) or "none"
        msg = (
            f"The reference has no obs[{labels_key!r}]. Columns present: {known}. Pass labels_key= with the one that "
            "holds its labels."
        )
        raise KeyError(msg)
    names = category_names(adata.obs[labels_key], slot=f"obs[{labels_key!r}] of the reference", warn_of_numbers=True)
    is_unknown = names.str.strip().str.lower() == UNKNOWN
    is_text_of_none = names.isin(MISSING_TEXTS)
    labelled = (names.notna() & ~is_unknown & ~is_text_of_none).to_numpy()
    values = names[labelled]
    present = natsorted(set(values))
    _report_left_out(names[is_unknown], labels_key, why="which is what rejected cells are called")
    _report_left_out(names[is_text_of_none], labels_key, why="which is how missing values are written as text")
    if not labelled.all():
        logg.info(f"    {int((~labelled).sum())} of {len(labelled)} reference cells have no label and are left out")
    _refuse_few(present, labels_key, n_labelled=int(labelled.sum()))
    codes = pd.Index(present).get_indexer(values).astype(np.int64)
    _report_single_cells(present, codes, labels_key)
    return ReferenceLabels(tuple(present), codes, labelled)


def _report_left_out(names: pd.Series, labels_key: str, *, why: str) -> None:
    if len(names):
        shown = " or ".join(map(repr, natsorted(set(names))))
        msg = (
            f"{len(names)} cells of the reference are labelled {shown} in obs[{labels_key!r}], {why}. They are left out; "
            "give the label another name to use it."
        )
        warn(msg)


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
