from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sfm.metrics._input import checked

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def reliability_curve(confidence: ArrayLike, correct: ArrayLike, *, n_bins: int = 10) -> pd.DataFrame:
    """Compare confidence with accuracy, in bins of equal width.

    Labels are calibrated if of those given with a confidence of 0.8, four in five are right: accuracy and confidence
    are then equal in every bin. A bin includes its upper edge, and the first one both.

    Parameters
    ----------
    confidence
        Probability of the label that was given, from 0 to 1, shape `(n_cells,)`.
    correct
        Whether that label is right, shape `(n_cells,)`.
    n_bins
        Number of bins.

    Returns
    -------
    One row per bin: its edges `lower` and `upper`, mean `confidence` and `accuracy` of its cells (NaN in an empty bin),
    and their number `n`.

    Raises
    ------
    ValueError
        If the arguments are empty, differ in length or have missing values, if a confidence is no probability, or if
        `n_bins` is not a positive number.

    Examples
    --------
    >>> import sfm
    >>> sfm.metrics.reliability_curve([0.4, 0.9, 0.9, 0.8], [False, True, True, False], n_bins=2)
       lower  upper  confidence  accuracy  n
    0    0.0    0.5    0.400000  0.000000  1
    1    0.5    1.0    0.866667  0.666667  3
    """
    if not isinstance(n_bins, int | np.integer) or isinstance(n_bins, bool) or n_bins < 1:
        msg = f"n_bins={n_bins!r} is not a positive number of bins."
        raise ValueError(msg)
    probability, right = checked(confidence, correct)
    edges = np.linspace(0, 1, n_bins + 1)
    bins = np.searchsorted(edges[1:-1], probability, side="left")
    n = np.bincount(bins, minlength=n_bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 in empty bins
        mean = np.bincount(bins, weights=probability, minlength=n_bins) / n
        accuracy = np.bincount(bins, weights=right, minlength=n_bins) / n
    return pd.DataFrame(
        {"lower": edges[:-1], "upper": edges[1:], "confidence": mean, "accuracy": accuracy, "n": n},
        index=pd.RangeIndex(n_bins),
    )


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, *, n_bins: int = 15) -> float:
    """Measure how far confidence is from accuracy on average (Guo et al. 2017).

    The mean difference between the two over the bins of :func:`reliability_curve`, weighted by their numbers of cells.
    With few cells it is above 0 even where confidence is perfect, the more so the more bins there are.

    Parameters
    ----------
    confidence
        Probability of the label that was given, from 0 to 1, shape `(n_cells,)`.
    correct
        Whether that label is right, shape `(n_cells,)`.
    n_bins
        Number of bins, of equal width.

    Returns
    -------
    The error, from 0 (calibrated) to 1 (certain and always wrong).

    Raises
    ------
    ValueError
        As for :func:`reliability_curve`.

    Examples
    --------
    >>> import sfm
    >>> sfm.metrics.expected_calibration_error([0.75, 0.75, 0.75, 0.75], [True, True, True, False])
    0.0
    >>> sfm.metrics.expected_calibration_error([1.0, 1.0, 1.0, 1.0], [True, True, True, False])
    0.25
    """
    curve = reliability_curve(confidence, correct, n_bins=n_bins)
    difference = (curve["accuracy"] - curve["confidence"]).abs().fillna(0)
    return float(np.average(difference, weights=curve["n"]))
