from __future__ import annotations

from typing import Self

import numpy as np

from sfm.annotation._classifier import VectorClassifier
from sfm.annotation._neighbors import unit_vectors
from sfm.annotation._whitening import WithinClassWhitening, class_means

# Puts the softmax of cosine similarities near to probabilities; calibration does the rest.
_SCALE = 20.0


class NearestPrototype(VectorClassifier):
    """Cosine similarity to the mean direction of each label.

    Parameters
    ----------
    whiten
        Compare cells after :class:`WithinClassWhitening` instead of as they are.
    """

    def __init__(self, *, whiten: bool = True) -> None:
        self.whitening = WithinClassWhitening() if whiten else None

    def fit(self, vectors: np.ndarray, codes: np.ndarray, *, n_labels: int) -> Self:
        """Average the directions of each label."""
        if self.whitening is not None:
            vectors = self.whitening.fit(vectors, codes)(vectors)
        means = class_means(unit_vectors(vectors), codes)
        self.prototypes = np.zeros((n_labels, vectors.shape[1]), dtype=np.float32)
        self.prototypes[: len(means)] = unit_vectors(means)
        return self

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """Return scaled cosine similarities, shape `(cells, n_labels)`."""
        query = unit_vectors(vectors if self.whitening is None else self.whitening(vectors))
        return _SCALE * (query @ self.prototypes.T)
