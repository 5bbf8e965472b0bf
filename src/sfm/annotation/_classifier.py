from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

from sfm._registry import Registry

if TYPE_CHECKING:
    import numpy as np


# Logit of a label that had no cell to learn from, below those of the others.
IMPOSSIBLE = -30.0


class VectorClassifier(ABC):
    """Assigns labels to cell vectors; the settings are the arguments of the class."""

    @abstractmethod
    def fit(self, vectors: np.ndarray, codes: np.ndarray, *, n_labels: int) -> Self:
        """Learn from reference cells.

        Parameters
        ----------
        vectors
            Their vectors, float32 of shape `(cells, dims)`.
        codes
            Number of the label of each, shape `(cells,)`.
        n_labels
            Number of labels; some may have no cell here.
        """

    @abstractmethod
    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """Return how well each label fits each cell, shape `(cells, n_labels)`; softmax makes probabilities of it.

        Parameters
        ----------
        vectors
            Vectors of the cells, float32 of shape `(cells, dims)`; each is judged alone.
        """


#: Methods of :func:`sfm.tl.annotate` that work on cell vectors.
CLASSIFIERS = Registry(
    "method",
    {
        "knn": "sfm.annotation._knn:NearestNeighbors",
        "lda": "sfm.annotation._lda:LinearDiscriminant",
        "logreg": "sfm.annotation._logreg:LogisticRegression",
        "prototype": "sfm.annotation._prototype:NearestPrototype",
    },
)
