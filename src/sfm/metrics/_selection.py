"""What rejecting the least certain labels costs and brings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sfm.metrics._input import checked

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def risk_coverage(confidence: ArrayLike, correct: ArrayLike) -> pd.DataFrame:
    """Compute the share of wrong labels among the cells kept, for every threshold on confidence.

    Cells of equal confidence are kept or rejected together, so the order of the cells does not matter. The risk at a
    coverage of 1 is the error rate without rejection (Geifman and El-Yaniv 2017).

    Parameters
    ----------
    confidence
        Probability of the label that was given, from 0 to 1, shape `(n_cells,)`.
    correct
        Whether that label is right, shape `(n_cells,)`.

    Returns
    -------
    One row per distinct confidence, highest first: `threshold`, the lowest confidence kept; `coverage`, the share of
    cells kept; and `risk`, the share of those whose label is wrong.

    Raises
    ------
    ValueError
        If the arguments are empty, differ in length or have missing values, or if a confidence is no probability.

    Examples
    --------
    >>> import sfm
    >>> sfm.metrics.risk_coverage([0.9, 0.6, 0.6, 0.5], [True, True, False, False])
       threshold  coverage      risk
    0        0.9      0.25  0.000000
    1        0.6      0.75  0.333333
    2        0.5      1.00  0.500000
    """
    probability, right = checked(confidence, correct)
    levels, level = np.unique(-probability, return_inverse=True)
    kept = np.bincount(level).cumsum()
    wrong = np.bincount(level, weights=~right).cumsum()
    return pd.DataFrame({"threshold": np.abs(levels), "coverage": kept / right.size, "risk": wrong / kept})


def area_under_risk_coverage(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Average the risk of :func:`risk_coverage` over all coverages (Geifman and El-Yaniv 2017).

    Every cell counts with the risk at the threshold that just keeps it. The area is small if few labels are wrong, and
    if the wrong ones have low confidence. With one confidence for all cells it is the error rate.

    Parameters
    ----------
    confidence
        Probability of the label that was given, from 0 to 1, shape `(n_cells,)`.
    correct
        Whether that label is right, shape `(n_cells,)`.

    Returns
    -------
    The area, from 0 (no label is wrong) to 1 (all are).

    Raises
    ------
    ValueError
        As for :func:`risk_coverage`.

    Examples
    --------
    >>> import sfm
    >>> sfm.metrics.area_under_risk_coverage([0.9, 0.5], [True, False])
    0.25
    >>> sfm.metrics.area_under_risk_coverage([0.5, 0.9], [True, False])
    0.75
    """
    curve = risk_coverage(confidence, correct)
    shares = np.diff(curve["coverage"], prepend=0.0)
    return float((shares * curve["risk"]).sum())
