from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# Sums of float32 probabilities may come out that much above 1.
_ROUNDING = 1e-6


def checked(confidence: ArrayLike, correct: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return confidences as float64 in [0, 1] and booleans, both of shape `(n_cells,)`."""
    numbers, truth = np.asarray(confidence), np.asarray(correct)
    if numbers.ndim != 1 or numbers.shape != truth.shape:
        msg = (
            f"confidence has shape {numbers.shape} and correct has shape {truth.shape}. Pass one number of each per "
            "cell, in the same order."
        )
        raise ValueError(msg)
    if numbers.size == 0:
        msg = "confidence and correct are empty. Pass at least one cell whose true label is known."
        raise ValueError(msg)
    return _confidence(numbers), _correct(truth)


def _confidence(numbers: np.ndarray) -> np.ndarray:
    try:
        numbers = numbers.astype(np.float64)
    except (TypeError, ValueError) as error:
        msg = f"confidence holds values that are no numbers ({error}). Pass probabilities."
        raise ValueError(msg) from error
    missing = np.isnan(numbers)
    if missing.any():
        msg = f"confidence is NaN for {int(missing.sum())} of {numbers.size} cells. Leave these out of both arguments."
        raise ValueError(msg)
    outside = (numbers < -_ROUNDING) | (numbers > 1 + _ROUNDING)
    if outside.any():
        msg = (
            f"confidence has {int(outside.sum())} values outside [0, 1], such as {float(numbers[outside][0])!r}. Pass "
            "probabilities, not scores or logits."
        )
        raise ValueError(msg)
    return numbers.clip(0, 1)


def _correct(truth: np.ndarray) -> np.ndarray:
    if truth.dtype == bool:
        return truth
    if truth.dtype.kind in "iuf":
        other = ~np.isin(truth, (0, 1))
    else:
        other = np.array([not isinstance(value, bool | np.bool_) for value in truth])
    if other.any():
        msg = (
            f"correct has {int(other.sum())} values that are neither true nor false, such as {truth[other][0]!r}. Pass "
            "`predicted == truth`, without the cells whose true label is missing."
        )
        raise ValueError(msg)
    return truth.astype(bool)
