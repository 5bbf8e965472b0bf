from __future__ import annotations

from typing import Self

import numpy as np

from sfm.annotation._classifier import VectorClassifier
from sfm.annotation._neighbors import unit_vectors
from sfm.annotation._settings import checked_switch
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
        self.whitening = WithinClassWhitening() if checked_switch("whiten", whiten) else None

    def fit(self, vectors: np.ndarray, codes: np.ndarray, *, n_labels: int) -> Self:
        """Average the directions of each label."""
        if self.whitening is not None:
            vectors = self.whitening.fit(vectors, codes)(vectors)
        self.prototypes = label_directions(unit_vectors(vectors), codes, n_labels=n_labels)
        return self

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """Return scaled cosine similarities, shape `(cells, n_labels)`."""
        query = unit_vectors(vectors if self.whitening is None else self.whitening(vectors))
        return prototype_logits(query, self.prototypes)


def label_directions(vectors: np.ndarray, codes: np.ndarray, *, n_labels: int) -> np.ndarray:
    """Mean direction of the unit vectors of each label, shape `(n_labels, n_dims)`; zeros for a label without cells."""
    means = class_means(vectors, codes)
    directions = np.zeros((n_labels, vectors.shape[1]), dtype=np.float32)
    directions[: len(means)] = unit_vectors(means)
    return directions


def prototype_logits(vectors: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
    """Scaled cosine similarities of unit vectors to the direction of each label, shape `(cells, n_labels)`."""
    return _SCALE * (vectors @ prototypes.T)
