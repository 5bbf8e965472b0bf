"""Turning logits into probabilities that mean what they say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from sfm.metrics import expected_calibration_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sklearn.isotonic import IsotonicRegression

Calibration = Literal["temperature", "isotonic"]

#: What `uns` says of held-out cells, `None` where none was measured.
MEASURED = ("expected_calibration_error", "expected_calibration_error_before", "held_out_accuracy")

_N_FOLDS = 5
_SMALLEST = 1e-12


class Temperature:
    """Divide logits by one number (Guo et al. 2017). The order of the labels stays as it is."""

    value: float = 1.0

    def fit(self, logits: np.ndarray, codes: np.ndarray) -> Self:
        """Choose the number that makes held-out labels most likely."""
        n_cells, n_labels = logits.shape
        # With all labels right, certainty would be best; how certain one can be depends on the number of cells (Platt).
        doubt = 1 / (n_cells + 2)

        def loss(log_temperature: float) -> float:
            log_probabilities = log_softmax(logits.astype(np.float64) / np.exp(log_temperature), axis=1)
            likelihood = log_probabilities[np.arange(n_cells), codes].mean()
            return -(1 - doubt) * likelihood - doubt * log_probabilities.mean()

        self.value = float(np.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded").x))
        return self

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Return probabilities, float32, same shape."""
        return softmax(logits.astype(np.float64) / self.value, axis=1).astype(np.float32)


class Isotonic:
    """Map the probability of the best label to how often it is right (Zadrozny and Elkan 2002).

    The other labels share the rest as before. The temperature comes first, so that there is something to share.
    """

    def __init__(self) -> None:
        self.temperature = Temperature()
        self.mapping: IsotonicRegression | None = None

    @property
    def value(self) -> float:
        """The temperature."""
        return self.temperature.value

    def fit(self, logits: np.ndarray, codes: np.ndarray) -> Self:
        """Learn the mapping, which never falls, from held-out cells."""
        from sklearn.isotonic import IsotonicRegression

        probabilities = self.temperature.fit(logits, codes)(logits)
        right = probabilities.argmax(axis=1) == codes
        n_cells = len(codes)
        limits = {"y_min": 1 / (n_cells + 2), "y_max": (n_cells + 1) / (n_cells + 2)}
        self.mapping = IsotonicRegression(out_of_bounds="clip", **limits).fit(probabilities.max(axis=1), right)
        return self

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Return probabilities, float32, same shape."""
        if self.mapping is None:
            return self.temperature(logits)
        probabilities = softmax(logits.astype(np.float64) / self.value, axis=1)
        rows, best = np.arange(len(logits)), logits.argmax(axis=1)
        after = self.mapping.predict(probabilities[rows, best].astype(np.float32))
        probabilities[rows, best] = 0
        others = probabilities.sum(axis=1)
        probabilities *= ((1 - after) / np.where(others > 0, others, 1))[:, None]
        probabilities[rows, best] = np.where(others > 0, after, 1)
        return probabilities.astype(np.float32)


CALIBRATIONS: dict[str, type[Temperature | Isotonic]] = {"temperature": Temperature, "isotonic": Isotonic}


class CalibratedMean:
    """Mean probabilities of several judges of the same cells, that mean what they say.

    A judge is one classifier in one view of the cells, and is calibrated by itself. The mean of all is then less certain
    than it is right, since they err on different cells, and so it is calibrated once more.

    Parameters
    ----------
    kind
        How.
    n_judges
        Number of judges.
    """

    def __init__(self, kind: Calibration, n_judges: int) -> None:
        self.judges = [CALIBRATIONS[kind]() for _ in range(n_judges)]
        self.mean = CALIBRATIONS[kind]() if n_judges > 1 else None

    @property
    def value(self) -> float:
        """The last temperature."""
        return (self.mean or self.judges[0]).value

    def fit(self, logits: Sequence[np.ndarray], codes: np.ndarray) -> Self:
        """Learn from held-out cells; without any, probabilities stay what they are."""
        for judge, part in zip(self.judges, logits, strict=True):
            judge.fit(part, codes)
        if self.mean is not None:
            self.mean.fit(self._log_mean(self.each(logits)), codes)
        return self

    def each(self, logits: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the calibrated probabilities of each judge, float32 of shape `(cells, labels)`."""
        return [judge(part) for judge, part in zip(self.judges, logits, strict=True)]

    def pooled(self, each: Sequence[np.ndarray]) -> np.ndarray:
        """Return the probabilities of all judges together, float32 of shape `(cells, labels)`."""
        return each[0] if self.mean is None else self.mean(self._log_mean(each))

    @staticmethod
    def _log_mean(probabilities: Sequence[np.ndarray]) -> np.ndarray:
        return np.log(np.maximum(np.mean(probabilities, axis=0, dtype=np.float64), _SMALLEST))


def best_labels(logits: Sequence[np.ndarray], each: Sequence[np.ndarray]) -> np.ndarray:
    """Labels that judges find best together, which no calibration of one judge or of their mean changes."""
    return (logits[0] if len(logits) == 1 else np.mean(each, axis=0, dtype=np.float64)).argmax(axis=1)


@dataclass(frozen=True)
class CalibrationReport:
    """How good the probabilities of held-out cells are."""

    n_cells: int
    accuracy: float
    error: float
    error_before: float


def calibration_report(kind: Calibration, logits: Sequence[np.ndarray], codes: np.ndarray) -> CalibrationReport:
    """Measure the mean probabilities of judges on held-out cells, calibrated on other ones of these.

    `logits` has one array for each judge, of shape `(cells, labels)`.
    """
    folds = np.random.default_rng(0).permutation(len(codes)) % _N_FOLDS
    before = np.mean([softmax(part, axis=1) for part in logits], axis=0)
    after, best = np.zeros_like(before), np.zeros(len(codes), dtype=np.int64)
    for fold in np.unique(folds):
        rest, inside = folds != fold, folds == fold
        fitted = CalibratedMean(kind, len(logits)).fit([part[rest] for part in logits], codes[rest])
        judged = [part[inside] for part in logits]
        each = fitted.each(judged)
        after[inside], best[inside] = fitted.pooled(each), best_labels(judged, each)
    return CalibrationReport(
        n_cells=len(codes),
        accuracy=float((best == codes).mean()),
        error=_error(after, best, codes),
        error_before=_error(before, before.argmax(axis=1), codes),
    )


def _error(probabilities: np.ndarray, best: np.ndarray, codes: np.ndarray) -> float:
    confidence = np.clip(probabilities[np.arange(len(best)), best], 0, 1)
    return expected_calibration_error(confidence, best == codes)
