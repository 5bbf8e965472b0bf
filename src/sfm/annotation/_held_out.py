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
    distances: list[np.ndarray]
    """Distances of :class:`Typicality` in each view, shape `(n_held_out, 2)`."""


def hold_out(
    make: Sequence[Callable[[], VectorClassifier]], views: Sequence[np.ndarray], codes: np.ndarray, *, n_labels: int
) -> HeldOut:
    """Fit on all reference cells but a fold, and classify the fold, for each of some folds.

    A view is vectors of all cells, shape `(cells, dims)`; each classifier works on each view by itself. The only cell of a
    label is never held out. Of large references a part is, in proportion to the labels. Which cells go together follows
    from their vectors in the first view, so that the order of the reference has no say.
    """
    rows = _held_out_cells(views[0], codes)
    folds = np.arange(len(rows)) % _N_FOLDS  # neighbours in this order are in different folds
    logits = [[np.zeros((len(rows), n_labels), dtype=np.float32) for _ in views] for _ in make]
    distances = [np.zeros((len(rows), 2)) for _ in views]
    for fold in np.unique(folds):
        inside = folds == fold
        held = rows[inside]
        rest = np.setdiff1d(np.arange(len(codes)), held)
        for classifier, by_view in zip(make, logits, strict=True):
            for vectors, filled in zip(views, by_view, strict=True):
                fitted = classifier().fit(vectors[rest], codes[rest], n_labels=n_labels)
                filled[inside] = fitted.logits(vectors[held])
        for vectors, found in zip(views, distances, strict=True):
            found[inside] = Typicality().fit(vectors[rest], codes[rest]).distances(vectors[held])
    return HeldOut(codes[rows], logits, distances)


def _held_out_cells(vectors: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Rows of cells to hold out, by label, and within labels in an order that follows from the vectors alone."""
    counts = np.bincount(codes)
    eligible = np.flatnonzero(counts[codes] > 1)
    # Along one direction, since cells whose vectors differ in the last digits hardly move there, as in a hash they would.
    place = vectors @ np.random.default_rng(0).standard_normal(vectors.shape[1], dtype=np.float32)
    rows = eligible[np.lexsort((place[eligible], codes[eligible]))]
    if len(rows) <= _MAX_CELLS:
        return rows
    return rows[np.arange(_MAX_CELLS) * len(rows) // _MAX_CELLS]
