"""Labels of cells in a column of `obs`, and their registration with scvi-tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from natsort import natsorted
from scvi import REGISTRY_KEYS
from scvi.data import fields

from sfm import _logging as logg
from sfm._categories import category_names, listed, name_of, names_in_order
from sfm._warn import warn
from sfm.annotation._labels import MISSING_TEXTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

_FEW = 2


class LabelsField(fields.CategoricalObsField):
    """Labels in `obs`, of which some may be unknown; these have the code -1.

    Parameters
    ----------
    labels_key
        Column of `adata.obs`.
    unlabeled_category
        Label that means unlabelled, beside NaN.
    labels
        Names in their order; `None` for those that occur.
    """

    def __init__(self, labels_key: str, *, unlabeled_category: Any = None, labels: Sequence[str] | None = None) -> None:
        super().__init__(REGISTRY_KEYS.LABELS_KEY, labels_key)
        self.unlabeled_category = unlabeled_category
        self.labels = labels

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """Write the codes, and return the names."""
        column = read_labels(
            adata, self._original_attr_key, unlabeled_category=self.unlabeled_category, labels=self.labels
        )
        adata.obs[self.attr_key] = np.asarray(column.codes, dtype=np.int64)
        # Registered again after another model was set up, the same cells must get the same codes.
        self.labels = [str(label) for label in column.categories]
        return {
            self.CATEGORICAL_MAPPING_KEY: np.array(self.labels, dtype=object),
            self.ORIGINAL_ATTR_KEY: self._original_attr_key,
        }

    def transfer_field(self, state_registry: dict[str, Any], adata_target: AnnData, **kwargs: Any) -> dict[str, Any]:
        """Write the codes by the names of a saved model; data without the column are unlabelled."""
        if self.labels is None:
            self.labels = [str(label) for label in state_registry[self.CATEGORICAL_MAPPING_KEY]]
        if self._original_attr_key not in adata_target.obs:
            warn(
                f"adata.obs has no column {self._original_attr_key!r}, so that all cells are unlabelled: the model can "
                "predict their labels, but not train on them."
            )
            adata_target.obs[self.attr_key] = np.full(adata_target.n_obs, -1, dtype=np.int64)
            return dict(state_registry)
        return self.register_field(adata_target)


def read_labels(
    adata: AnnData, key: str, *, unlabeled_category: Any = None, labels: Sequence[str] | None = None
) -> pd.Categorical:
    """Return the labels of a column as categories with names; empty ones and `unlabeled_category` become NaN.

    Parameters
    ----------
    adata
        Annotated data.
    key
        Column of `adata.obs`.
    unlabeled_category
        Label that means unlabelled, beside NaN.
    labels
        Names that are allowed, in their order. Default: those that occur, in the order of the column's categories
        where it has any, and else in natural order.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If the column holds measurements, or a label that is not among `labels`.
    """
    if key not in adata.obs:
        msg = f"Did not find labels_key={key!r} in adata.obs, which has {listed(map(str, adata.obs.columns))}."
        raise KeyError(msg)
    named = category_names(adata.obs[key], slot=f"adata.obs[{key!r}]", warn_of_numbers=True)
    if unlabeled_category is not None:
        named = named.mask(named == name_of(unlabeled_category))
    occurring = set(named.dropna())
    _warn_of_missing_texts(named, key)
    if labels is None:
        return pd.Categorical(named, categories=[name for name in names_in_order(adata.obs[key]) if name in occurring])
    unknown = natsorted(occurring - set(labels))
    if unknown:
        msg = (
            f"adata.obs[{key!r}] has {listed(unknown)}, which the model does not know; it knows {listed(labels)}. "
            "Rename these labels, set them to NaN to leave the cells unlabelled, or extend the model by them: "
            "`from_pretrained(..., extend_labels=True)`."
        )
        raise ValueError(msg)
    return pd.Categorical(named, categories=list(labels))


def _warn_of_missing_texts(named: pd.Series, key: str) -> None:
    """Warn of labels that are missing values written as text; as in scvi-tools, only what is named is unlabelled."""
    for text in MISSING_TEXTS:
        n_cells = int((named == text).sum())
        if n_cells:
            warn(
                f"{n_cells} cells have the label {text!r} in adata.obs[{key!r}], which is how missing values are written as "
                f"text. It is taken as a class: pass unlabeled_category={text!r} if these cells have no label."
            )


def refuse_untrainable(labels: pd.Categorical, key: str, *, of: str) -> None:
    """Raise if the labels cannot be told apart, and warn of those that one cell or sample alone has."""
    counts = labels.value_counts()
    counts = counts[counts > 0]
    if len(counts) < _FEW:
        found = f"a single label, {counts.index[0]!r}," if len(counts) else "no label"
        msg = f"adata.obs[{key!r}] has {found} among {len(labels)} {of}s. A classifier needs two labels or more."
        raise ValueError(msg)
    alone = [str(label) for label in counts.index[counts == 1]]
    if alone:
        warn(
            f"Labels of adata.obs[{key!r}] that a single {of} has: {listed(alone)}. They are trained on, but never held "
            "out, so that no metric covers them."
        )
    n_unlabelled = int(labels.isna().sum())
    if n_unlabelled:
        logg.info(f"{n_unlabelled} of {len(labels)} {of}s have no label in adata.obs[{key!r}] and are not trained on")
