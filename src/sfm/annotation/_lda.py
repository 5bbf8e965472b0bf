from __future__ import annotations

from typing import Self

import numpy as np

from sfm.annotation._classifier import IMPOSSIBLE, VectorClassifier
from sfm.annotation._settings import checked_switch
from sfm.annotation._whitening import WithinClassWhitening, class_means


class LinearDiscriminant(VectorClassifier):
    """Linear discriminant analysis (Fisher 1936): labels are normal distributions of one shape around their means.

    The shape is the covariance within labels, shrunk towards a sphere. Of a label alone no more than the mean is learnt, so
    that those of few cells are found as well.

    Parameters
    ----------
    balanced
        Let each label be equally likely beforehand, however many cells it has.
    """

    def __init__(self, *, balanced: bool = False) -> None:
        self.balanced = checked_switch("balanced", balanced)
        self.whitening = WithinClassWhitening()

    def fit(self, vectors: np.ndarray, codes: np.ndarray, *, n_labels: int) -> Self:
        """Learn the covariance, and the mean of each label."""
        n_cells = np.bincount(codes, minlength=n_labels)
        self.present = np.flatnonzero(n_cells)
        self.means = class_means(self.whitening.fit(vectors, codes)(vectors), codes)[self.present]
        self.offsets = -0.5 * (self.means**2).sum(axis=1)
        if not self.balanced:
            self.offsets += np.log(n_cells[self.present] / len(codes))
        self.n_labels = n_labels
        return self

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """Return the logarithm of the densities, but for a number of each cell, shape `(cells, n_labels)`."""
        found = self.whitening(vectors) @ self.means.T + self.offsets
        logits = np.repeat(found.min(axis=1, keepdims=True) + IMPOSSIBLE, self.n_labels, axis=1)
        logits[:, self.present] = found
        return logits.astype(np.float32)
