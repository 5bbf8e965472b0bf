"""Reference cells that are annotated from the others, as if they were new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sfm.annotation._novelty import Typicality

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sfm.annotation._classifier import VectorClassifier

# Enough to measure calibration to a percent; more cells cost time and tell little.
_MAX_CELLS = 4000
_N_FOLDS = 5


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What is known of held-out reference cells from the rest of the reference."""

    codes: np.ndarray
    """Numbers of their true labels, shape `(n_held_out,)`."""
    logits: list[list[np.ndarray]]
    """For each classifier, and each view of the cells, shape `(n_held_out, n_labels)`."""
    distances: np.ndarray
    """Distances of :class:`Typicality` in the first view, shape `(n_held_out, 2)`."""


def hold_out(
    make: Sequence[Callable[[], VectorClassifier]], views: Sequence[np.ndarray], codes: np.ndarray, *, n_labels: int
) -> HeldOut:
    """Fit on all reference cells but a fold, and classify the fold, for each of some folds.

    A view is vectors of all cells, shape `(cells, dims)`; each classifier works on each view by itself. The only cell of a
    label is never held out. Of large references a random part is, in proportion to the labels.
    """
    folds = _stratified_folds(codes)
    rows = np.flatnonzero(folds >= 0)
    logits = [[np.zeros((len(rows), n_labels), dtype=np.float32) for _ in views] for _ in make]
    distances = np.zeros((len(rows), 2))
    for fold in np.unique(folds[rows]):
        rest, inside = folds != fold, folds[rows] == fold
        held = rows[inside]
        for classifier, by_view in zip(make, logits, strict=True):
            for vectors, filled in zip(views, by_view, strict=True):
                fitted = classifier().fit(vectors[rest], codes[rest], n_labels=n_labels)
                filled[inside] = fitted.logits(vectors[held])
        distances[inside] = Typicality().fit(views[0][rest], codes[rest]).distances(views[0][held])
    return HeldOut(codes[rows], logits, distances)


def _stratified_folds(codes: np.ndarray) -> np.ndarray:
    """Number of the fold of each cell, dealt out label by label; -1 for cells that are never held out."""
    rng = np.random.default_rng(0)
    counts = np.bincount(codes)
    eligible = np.flatnonzero(counts[codes] > 1)
    if len(eligible) > _MAX_CELLS:
        eligible = rng.choice(eligible, _MAX_CELLS, replace=False)
    folds = np.full(len(codes), -1)
    # By label, then at random: neighbours in this order are in different folds.
    order = eligible[np.lexsort((rng.random(len(eligible)), codes[eligible]))]
    folds[order] = np.arange(len(order)) % _N_FOLDS
    return folds
