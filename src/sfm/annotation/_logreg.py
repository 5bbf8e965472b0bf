from __future__ import annotations

from typing import Self

import numpy as np

from sfm.annotation._classifier import IMPOSSIBLE, VectorClassifier
from sfm.annotation._settings import checked_switch, is_number
from sfm.annotation._whitening import WithinClassWhitening

_MAX_ITERATIONS = 1000


class LogisticRegression(VectorClassifier):
    """Multinomial logistic regression with a quadratic penalty, after :class:`WithinClassWhitening`.

    Parameters
    ----------
    C
        Inverse strength of the penalty, as in scikit-learn. By default `0.5 / sqrt(cells)`, so that the fit to the cells
        counts the more, the more there are.
    balanced
        Let each label count alike, however many cells it has. Rare labels are then given more often, also wrongly.
    """

    def __init__(self, C: float | None = None, *, balanced: bool = False) -> None:
        if C is not None and not (is_number(C) and 0 < C < np.inf):
            msg = f"C={C!r} is not a number above 0. Pass one, or None to have it follow from the number of cells."
            raise ValueError(msg)
        self.C = C
        self.balanced = checked_switch("balanced", balanced)
        self.whitening = WithinClassWhitening()

    def fit(self, vectors: np.ndarray, codes: np.ndarray, *, n_labels: int) -> Self:
        """Fit the weights."""
        from sklearn.linear_model import LogisticRegression as Regression

        C = 0.5 / np.sqrt(len(vectors)) if self.C is None else self.C
        weights = "balanced" if self.balanced else None
        regression = Regression(C=C, class_weight=weights, max_iter=_MAX_ITERATIONS)
        self.regression = regression.fit(self.whitening.fit(vectors, codes)(vectors), codes)
        self.n_labels = n_labels
        return self

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """Return the logarithm of the probabilities, shape `(cells, n_labels)`."""
        logits = np.full((len(vectors), self.n_labels), IMPOSSIBLE, dtype=np.float32)
        logits[:, self.regression.classes_] = self.regression.predict_log_proba(self.whitening(vectors))
        return logits
