"""Decision values of a CellTypist model, computed on the non-zeros of a query."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from sfm.annotation._celltypist_file import ModelParts
    from sfm.annotation._celltypist_genes import FeatureMatch

_LARGEST_Z = 10.0
TARGET_SUM = 1e4


class SparseScorer:
    """A linear model on clipped z-scores, for the features that a query has.

    A gene without expression has the same z-score in every cell. So a decision value is that of an empty cell, plus,
    for each non-zero, its coefficient times the difference between its clipped z-score and that of a zero. The mean
    drops out of that difference, which is the value over the scale, up to where the z-score is clipped.

    Parameters
    ----------
    parts
        The model.
    match
        Which column of the query is which feature; features that were not found are left out.
    """

    def __init__(self, parts: ModelParts, match: FeatureMatch) -> None:
        self.columns = np.flatnonzero(match.rows >= 0)
        rows = match.rows[self.columns]
        self.feature_of: np.ndarray | None = None  # where several columns are one feature
        if match.how == "aligned" and np.unique(rows).size < rows.size:
            rows, inverse = np.unique(rows, return_inverse=True)
            self.feature_of = inverse.astype(np.int32)
        self.scale = parts.scale[rows]
        of_zero = -parts.mean[rows] / self.scale if parts.with_mean else np.zeros(rows.size)
        self.largest = np.maximum(_LARGEST_Z - of_zero, 0.0)
        self.coef = np.ascontiguousarray(parts.coef[:, rows].T)  # (features, classes)
        self.of_empty = np.minimum(of_zero, _LARGEST_Z) @ self.coef + parts.intercept

    def scores(self, values: sparse.csr_matrix, *, counts: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return decision values of some cells, and the number of features that each expresses.

        Parameters
        ----------
        values
            Counts or log1p-normalised values, shape `(cells, n_vars)`.
        counts
            Whether they are counts. Neither may be negative.
        """
        if not (values.has_canonical_format and values.data.all()):
            values = values.copy()
            values.sum_duplicates()
            values.eliminate_zeros()
        known = self._known(values, counts=counts)
        known.data /= self.scale[known.indices]
        np.minimum(known.data, self.largest[known.indices], out=known.data)
        decision = known @ self.coef
        decision += self.of_empty
        return decision, np.diff(known.indptr)

    def _known(self, values: sparse.csr_matrix, *, counts: bool) -> sparse.csr_matrix:
        """Return the log1p-normalised values of the features found, one column each, float64."""
        known = values if self.columns.size == values.shape[1] else values[:, self.columns]
        data = log_normalize(known, cell_totals(values)) if counts else known.data
        indices = known.indices if self.feature_of is None else self.feature_of[known.indices]
        known = sparse.csr_matrix(
            (data.astype(np.float64), indices, known.indptr), shape=(values.shape[0], self.scale.size)
        )
        if self.feature_of is not None:  # columns of one feature add up before the logarithm
            np.expm1(known.data, out=known.data)
            known.sum_duplicates()
            np.log1p(known.data, out=known.data)
        return known


def cell_totals(counts: sparse.csr_matrix) -> np.ndarray:
    """Counts per cell, float64."""
    running = np.concatenate([[0.0], np.cumsum(counts.data, dtype=np.float64)])
    return np.diff(running[counts.indptr])


def log_normalize(counts: sparse.csr_matrix, totals: np.ndarray) -> np.ndarray:
    """Scale each cell to 10,000 counts and take log1p, to the last bit as scanpy does it.

    scanpy calculates in the precision of the counts, or in float32 where they are integers.
    """
    precision = counts.dtype if counts.dtype == np.float64 else np.dtype(np.float32)
    factors = totals.astype(precision) / precision.type(TARGET_SUM)
    factors[factors == 0] = 1
    data = counts.data.astype(precision)
    data /= np.repeat(factors, np.diff(counts.indptr))
    return np.log1p(data, out=data)
