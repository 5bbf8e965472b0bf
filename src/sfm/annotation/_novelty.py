"""How far a cell is from everything in a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np

from sfm.annotation._neighbors import unit_vectors
from sfm.annotation._whitening import WithinClassWhitening, class_means, directions_between

if TYPE_CHECKING:
    from collections.abc import Sequence


class Typicality:
    """Two distances of a cell from the nearest label of a reference.

    The first is that of Mahalanobis (Lee et al. 2018), within the directions that tell the labels apart: most of what
    changes between chemistries and laboratories is in the others, and would make every cell of another data set look
    new. The second is the angle to the mean of the nearest label, in all directions, for what is like no label at all.
    """

    def fit(self, vectors: np.ndarray, codes: np.ndarray) -> Self:
        """Learn from vectors of shape `(cells, dims)` and the numbers of their labels."""
        self.whitening = WithinClassWhitening().fit(vectors, codes)
        white = self.whitening(vectors)
        present = np.unique(codes)
        means = class_means(white, codes)[present]
        self.subspace = directions_between(means)  # (dims, at most labels - 1)
        self.means = means @ self.subspace
        self.prototypes = unit_vectors(class_means(unit_vectors(white), codes)[present])
        return self

    def distances(self, vectors: np.ndarray) -> np.ndarray:
        """Return both distances of each cell, shape `(cells, 2)`."""
        white = self.whitening(vectors)
        inside = white @ self.subspace  # (cells, directions)
        squared = np.stack([((inside - mean) ** 2).sum(axis=1) for mean in self.means], axis=1)
        angular = 1 - (unit_vectors(white) @ self.prototypes.T).max(axis=1)
        return np.stack([np.sqrt(squared.min(axis=1)), angular], axis=1)


class Novelty:
    """Share of reference cells that are at most as far from the rest of the reference as a cell is.

    How far is the mean over the views of the cells: what changes between chemistries moves cells in one view more than in
    another, and a new type moves them in all.

    Parameters
    ----------
    typicalities
        Distances from the reference, in each view.
    held_out
        Those of its own held-out cells, in each view, shape `(n_held_out, 2)`.
    """

    def __init__(self, typicalities: Sequence[Typicality], held_out: Sequence[np.ndarray]) -> None:
        self.typicalities = typicalities
        self.sorted = [np.sort(distances, axis=0) for distances in held_out]
        self.far = np.sort(self._mean_share(held_out))

    def __call__(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """Return the share for each cell, from 0 to 1, float32; cells are given in the same views."""
        pairs = zip(self.typicalities, views, strict=True)
        return _share(self.far, self._mean_share([typicality.distances(vectors) for typicality, vectors in pairs]))

    def _mean_share(self, distances: Sequence[np.ndarray]) -> np.ndarray:
        """Mean over views of the larger share, that of either distance."""
        pairs = zip(self.sorted, distances, strict=True)
        return np.mean(
            [np.max([_share(k, d) for k, d in zip(known.T, found.T, strict=True)], axis=0) for known, found in pairs],
            axis=0,
        )


def _share(reference: np.ndarray, values: np.ndarray) -> np.ndarray:
    return (np.searchsorted(reference, values, side="right") / len(reference)).astype(np.float32)
