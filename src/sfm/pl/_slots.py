"""What the plots read from an annotated AnnData."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from natsort import natsorted

from sfm import _logging as logg
from sfm._keys import annotation_keys
from sfm._warn import warn
from sfm.annotation._labels import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

# Names in a warning.
_MAX_LISTED = 10


def column(adata: AnnData, name: str, *, argument: str) -> pd.Series:
    """Return a column of `adata.obs` as text, NaN where it is missing; categories keep their order."""
    if name not in adata.obs:
        known = ", ".join(map(repr, adata.obs.columns[:8])) + (", ..." if adata.obs.shape[1] > 8 else "")
        msg = f"Did not find adata.obs[{name!r}]. Pass as {argument}= a column of adata.obs ({known or 'it has none'})."
        raise KeyError(msg)
    values = adata.obs[name]
    if values.isna().all():
        msg = f"adata.obs[{name!r}] is missing for all cells. Pass another column as {argument}=."
        raise ValueError(msg)
    if isinstance(values.dtype, pd.CategoricalDtype):
        return values.cat.rename_categories([str(category) for category in values.cat.categories])
    texts = values.astype(str).where(values.notna())
    return texts.astype(pd.CategoricalDtype(natsorted(texts.dropna().unique())))


def given_labels(adata: AnnData, key: str) -> pd.Series:
    """Return the labels of :func:`sfm.tl.annotate`, as a categorical of text."""
    _require(adata, annotation_keys(key).label, key)
    return column(adata, key, argument="key")


def given_confidence(adata: AnnData, key: str) -> np.ndarray:
    """Return the confidence in these labels, float64, shape `(n_obs,)`."""
    slot = annotation_keys(key).confidence
    _require(adata, slot, key)
    return adata.obs[slot].to_numpy(dtype=np.float64)


def _require(adata: AnnData, name: str, key: str) -> None:
    if name in adata.obs:
        return
    call = "adata, reference" + ("" if key == "sfm_label" else f", key_added={key!r}")
    msg = (
        f"Did not find adata.obs[{name!r}]. Run `sfm.tl.annotate({call})` first, or pass as key= the key_added that it "
        "was given."
    )
    raise KeyError(msg)


def judged_labels(adata: AnnData, key: str, *, best: bool) -> pd.Series:
    """Labels as text: those that were given, or the most probable ones; the latter for rejected cells in any case."""
    labels, slot = given_labels(adata, key).astype(object), annotation_keys(key).probabilities
    rejected, probabilities = (labels == UNKNOWN).to_numpy(), adata.obsm.get(slot)
    if isinstance(probabilities, pd.DataFrame):
        names = _label_names(adata, key, probabilities)[probabilities.to_numpy().argmax(axis=1)]
        return labels.where(labels.isna() if best else ~rejected, names)
    if rejected.any():
        msg = (
            f"Did not find a DataFrame in adata.obsm[{slot!r}], which tells the most probable label of the "
            f"{int(rejected.sum())} rejected cells. Run `sfm.tl.annotate` again, or leave these cells out: "
            f"adata[adata.obs[{key!r}] != {UNKNOWN!r}]."
        )
        raise KeyError(msg)
    return labels


def _label_names(adata: AnnData, key: str, probabilities: pd.DataFrame) -> np.ndarray:
    """Names of the labels; names of columns may differ from them, since files allow no `/` there."""
    recorded = _recorded_labels(adata, key)
    names = recorded if len(recorded) == probabilities.shape[1] else probabilities.columns
    # Text comes from zarr as an array of numpy's StringDType, which `astype` does not take to object.
    return np.array([str(name) for name in names], dtype=object)


def _recorded_labels(adata: AnnData, key: str) -> Sequence[str]:
    """Labels that the reference had; none where that is not recorded."""
    recorded: Sequence[str] = adata.uns.get(annotation_keys(key).uns, {}).get("params", {}).get("labels", ())
    return recorded


def with_truth(adata: AnnData, labels_key: str) -> tuple[pd.Series, np.ndarray]:
    """Return true labels, and which cells have one; the number of those that do not is logged."""
    truth = column(adata, labels_key, argument="labels_key")
    known = truth.notna().to_numpy()
    if not known.all():
        n_missing = int((~known).sum())
        logg.info(f"{n_missing} of {adata.n_obs} cells are left out: adata.obs[{labels_key!r}] is missing")
    return truth, known


@dataclass(frozen=True)
class Judged:
    """Labels against the truth, for all cells that have a true label; each array has shape `(n_cells,)`.

    `kept` says which cells were not rejected.
    """

    confidence: np.ndarray
    correct: np.ndarray
    kept: np.ndarray


def judged(adata: AnnData, labels_key: str, keys: list[str], *, best: bool = False) -> dict[str, Judged]:
    """Judge several annotations on the same cells: those that have a true label, and one in each annotation."""
    given = {
        key: (given_labels(adata, key), given_confidence(adata, key), judged_labels(adata, key, best=best))
        for key in keys
    }
    truth, usable = with_truth(adata, labels_key)
    for labels, _, _ in given.values():
        usable &= labels.notna().to_numpy()
    if not usable.any():
        msg = f"No cell has labels both in adata.obs[{labels_key!r}] and in {', '.join(f'adata.obs[{k!r}]' for k in keys)}."
        raise ValueError(msg)
    for key, (_, _, answers) in given.items():
        _warn_of_other_names(adata, truth[usable], answers, labels_key=labels_key, key=key)
    return {
        key: Judged(
            confidence=confidence[usable],
            correct=(truth.astype(object) == answers).to_numpy()[usable],
            kept=(labels != UNKNOWN).to_numpy()[usable],
        )
        for key, (labels, confidence, answers) in given.items()
    }


def _warn_of_other_names(adata: AnnData, truth: pd.Series, answers: pd.Series, *, labels_key: str, key: str) -> None:
    """Warn of true labels that no cell could be given: of types that are new, or by another name."""
    recorded = [str(name) for name in _recorded_labels(adata, key)]
    if not recorded:
        return
    counts = truth.value_counts(sort=False)
    possible = {*recorded, *answers}
    missing = {name: int(n) for name, n in counts.items() if n and name not in possible}
    if not missing:
        return
    listed = ", ".join(f"{name!r} ({n:,})" for name, n in list(missing.items())[:_MAX_LISTED])
    more = f" and {len(missing) - _MAX_LISTED} more" if len(missing) > _MAX_LISTED else ""
    msg = (
        f"{sum(missing.values()):,} of {len(truth):,} cells have a true label that is not in "
        f"adata.uns[{annotation_keys(key).uns!r}]['params']['labels'], and count as wrong whatever label they got: "
        f"{listed}{more}. If the reference has these under other names, give them the same: adata.obs[{labels_key!r}] = "
        f"adata.obs[{labels_key!r}].astype(object).replace({{{next(iter(missing))!r}: ...}})."
    )
    warn(msg)


def stored_colors(adata: AnnData, name: str) -> dict[str, str]:
    """Colours that scanpy stored for the categories of a column; empty where it did not."""
    colors = adata.uns.get(f"{name}_colors")
    values = adata.obs[name]
    if colors is None or not isinstance(values.dtype, pd.CategoricalDtype) or len(colors) < len(values.cat.categories):
        return {}
    return {str(label): str(color) for label, color in zip(values.cat.categories, colors, strict=False)}
