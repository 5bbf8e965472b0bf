"""Samples, such as donors, that cells are from, and their registration with scvi-tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from natsort import natsorted
from scvi.data import fields

from sfm.model._labels import read_labels, refuse_untrainable
from sfm.train._splitter import SAMPLE_KEY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData


class SampleField(fields.CategoricalObsField):
    """Samples in `obs`; other data have other samples.

    Parameters
    ----------
    sample_key
        Column of `adata.obs`.
    """

    def __init__(self, sample_key: str) -> None:
        super().__init__(SAMPLE_KEY, sample_key)

    def register_field(self, adata: AnnData) -> dict[str, Any]:
        """Write the numbers, and return the names."""
        samples = read_samples(adata, self._original_attr_key)
        adata.obs[self.attr_key] = np.asarray(samples.codes, dtype=np.int64)
        return {
            self.CATEGORICAL_MAPPING_KEY: samples.categories.to_numpy(dtype=object),
            self.ORIGINAL_ATTR_KEY: self._original_attr_key,
        }

    def transfer_field(self, state_registry: dict[str, Any], adata_target: AnnData, **kwargs: Any) -> dict[str, Any]:
        """Number the samples of other data anew."""
        return self.register_field(adata_target)


def read_samples(adata: AnnData, key: str) -> pd.Categorical:
    """Return the sample of each cell, categories in natural order.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If a cell is from no sample.
    """
    if key not in adata.obs:
        columns = ", ".join(repr(str(name)) for name in adata.obs.columns)
        msg = f"Did not find sample_key={key!r} in adata.obs, which has {columns}."
        raise KeyError(msg)
    column = adata.obs[key]
    if column.isna().any():
        cell = str(adata.obs_names[int(column.isna().to_numpy().argmax())])
        msg = (
            f"{int(column.isna().sum())} cells, {cell!r} among them, have no sample in adata.obs[{key!r}]. Leave them "
            "out, or name their sample."
        )
        raise ValueError(msg)
    names = column.astype(str)
    return pd.Categorical(names, categories=natsorted(names.unique()))


def labels_of_samples(adata: AnnData, labels: pd.Categorical, sample_key: str) -> pd.Series:
    """Return the one label of each sample, NaN where all its cells are unlabelled.

    Raises
    ------
    ValueError
        If cells of one sample have different labels.
    """
    samples = read_samples(adata, sample_key)
    of_cells = pd.DataFrame({"sample": samples, "label": labels})
    n_labels = of_cells.groupby("sample", observed=True)["label"].nunique()
    if (n_labels > 1).any():
        sample = n_labels.index[int((n_labels > 1).to_numpy().argmax())]
        found = of_cells.loc[of_cells["sample"] == sample, "label"].dropna().unique().tolist()
        msg = (
            f"With sample_key={sample_key!r} all cells of a sample have its label, but those of {sample!r} have "
            f"{', '.join(map(repr, found))}. Pass a labels_key= that holds labels of samples, or leave sample_key out."
        )
        raise ValueError(msg)
    first = of_cells.groupby("sample", observed=True)["label"].first()
    return pd.Series(pd.Categorical(first, categories=labels.categories), index=first.index.astype(str))


def refuse_unusable_labels(
    adata: AnnData,
    labels_key: str,
    *,
    unlabeled_category: Any,
    labels: Sequence[str] | None,
    sample_key: str | None,
) -> None:
    """Raise if labels of cells, or of samples, cannot be read or cannot be told apart.

    Where `labels` are given, these data need not have all of them.
    """
    of_cells = read_labels(adata, labels_key, unlabeled_category=unlabeled_category, labels=labels)
    of_samples = None if sample_key is None else labels_of_samples(adata, of_cells, sample_key).array
    if labels is not None:
        return
    if of_samples is None:
        refuse_untrainable(of_cells, labels_key, of="cell")
    else:
        refuse_untrainable(of_samples, labels_key, of="sample")
