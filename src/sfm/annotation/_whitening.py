from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from sfm.nn._covariance import shrunk_to_sphere

if TYPE_CHECKING:
    from collections.abc import Iterator

# Rows that are turned into float64 at a time.
_ROWS = 8192


class WithinClassWhitening:
    """A change of coordinates after which cells of one label vary alike in all directions.

    What differs between cells of the same label, such as depth, then counts as little as noise. The covariance within
    labels is shrunk towards a sphere (Ledoit and Wolf 2004), the more so the fewer cells there are.

    Parameters
    ----------
    weight_of_rest
        Weight of the directions in which the means of the labels do not differ.
    """

    center: np.ndarray
    scaling: np.ndarray

    def __init__(self, *, weight_of_rest: float = 1.0) -> None:
        self.weight_of_rest = weight_of_rest

    def fit(self, vectors: np.ndarray, codes: np.ndarray) -> Self:
        """Learn the coordinates from cells of shape `(cells, dims)` and the numbers of their labels."""
        self.center = vectors.mean(axis=0, dtype=np.float64)
        means = class_means(vectors, codes)
        residuals = (vectors[rows] - means[codes[rows]] for rows in _chunks(len(vectors)))
        covariance = shrunk_covariance(residuals, n_cells=len(vectors), n_dims=vectors.shape[1])
        variances, directions = np.linalg.eigh(covariance)
        if variances[0] <= 1e-18:  # one cell per label, or all alike: there is nothing to learn from
            self.scaling = np.eye(vectors.shape[1])
        else:
            self.scaling = directions / np.sqrt(variances)  # (dims, dims)
        if self.weight_of_rest != 1:
            between = directions_between((means[np.unique(codes)] - self.center) @ self.scaling)
            rest = np.eye(len(between)) - between @ between.T
            self.scaling = self.scaling @ (between @ between.T + self.weight_of_rest * rest)
        return self

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Return the vectors in the new coordinates, float32."""
        center, scaling = self.center.astype(np.float32), self.scaling.astype(np.float32)
        white = np.empty(vectors.shape, dtype=np.float32)
        for rows in _chunks(len(vectors)):
            np.matmul(vectors[rows] - center, scaling, out=white[rows])
        return white


def shrunk_covariance(residuals: Iterator[np.ndarray], *, n_cells: int, n_dims: int) -> np.ndarray:
    """Covariance of parts of a centred sample, shrunk towards a sphere as Ledoit and Wolf (2004) do.

    With fewer cells than dimensions it is shrunk further, since most directions were never seen to vary.
    """
    sums, fourth = np.zeros((n_dims, n_dims)), 0.0
    for part in residuals:
        sums += part.T @ part
        fourth += float(((part**2).sum(axis=1) ** 2).sum())
    covariance = torch.from_numpy(sums / n_cells)
    at_least = 1 - n_cells / n_dims
    return shrunk_to_sphere(covariance, fourth=fourth / n_cells, n_cells=n_cells, at_least=at_least).numpy()


def class_means(vectors: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Mean vector of each label, float64 of shape `(n_labels, n_dims)`; zeros for a label without cells."""
    means = np.zeros((int(codes.max()) + 1, vectors.shape[1]))
    for code in np.unique(codes):
        means[code] = vectors[codes == code].mean(axis=0, dtype=np.float64)
    return means


def directions_between(means: np.ndarray) -> np.ndarray:
    """Orthonormal directions in which means of shape `(n_labels, n_dims)` differ, at most `n_labels - 1`, as columns."""
    _, sizes, directions = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)
    return directions[: int((sizes > 1e-6 * max(sizes[0], 1e-12)).sum())].T  # (dims, directions)


def _chunks(n_rows: int) -> Iterator[slice]:
    return (slice(start, start + _ROWS) for start in range(0, n_rows, _ROWS))
