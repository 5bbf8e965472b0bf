from __future__ import annotations

from typing import Self

import numpy as np


class WithinClassWhitening:
    """A change of coordinates after which cells of one label vary alike in all directions.

    What differs between cells of the same label, such as depth, then counts as little as noise. The covariance within
    labels is shrunk towards a sphere (Ledoit and Wolf 2004), the more so the fewer cells there are.
    """

    center: np.ndarray
    scaling: np.ndarray

    def fit(self, vectors: np.ndarray, codes: np.ndarray) -> Self:
        """Learn the coordinates from cells of shape `(cells, dims)` and the numbers of their labels."""
        from sklearn.covariance import ledoit_wolf

        self.center = vectors.mean(axis=0, dtype=np.float64)
        residuals = vectors - class_means(vectors, codes)[codes]  # float64
        spread = float(np.sqrt(np.mean(residuals**2)))
        n_dims = vectors.shape[1]
        if spread < 1e-9:  # one cell per label, or all alike: there is nothing to learn from
            self.scaling = np.eye(n_dims)
            return self
        covariance, _ = ledoit_wolf(residuals / spread, assume_centered=True)
        variances, directions = np.linalg.eigh(_more_shrunk(covariance, n_cells=len(vectors)))
        self.scaling = directions / (spread * np.sqrt(variances))  # (dims, dims)
        return self

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Return the vectors in the new coordinates, float32."""
        return np.asarray((vectors - self.center) @ self.scaling, dtype=np.float32)


def _more_shrunk(covariance: np.ndarray, *, n_cells: int) -> np.ndarray:
    """With fewer cells than dimensions, most directions were never seen to vary."""
    n_dims = len(covariance)
    share = max(0.0, 1 - n_cells / n_dims)
    return (1 - share) * covariance + share * np.trace(covariance) / n_dims * np.eye(n_dims)


def class_means(vectors: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Mean vector of each label, float64 of shape `(n_labels, n_dims)`; zeros for a label without cells."""
    n_labels = int(codes.max()) + 1
    counts = np.bincount(codes, minlength=n_labels)
    members = np.zeros((n_labels, len(codes)))
    members[codes, np.arange(len(codes))] = 1
    return members @ vectors / np.maximum(counts, 1)[:, None]
