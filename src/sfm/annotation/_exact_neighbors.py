from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from sfm.annotation._neighbors import nearest_cells

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


class ExactNeighbors:
    """Exact nearest neighbours by Euclidean distance, as a `transformer` for :func:`scanpy.pp.neighbors`.

    Above some thousand cells scanpy would take approximate ones from pynndescent, which from version 0.7 returns a sparse
    array that scanpy 1.11 cannot read. Memory grows with the number of cells, not with its square.

    Parameters
    ----------
    n_neighbors
        How many to find for each cell, itself included; at most the number of cells.
    """

    def __init__(self, n_neighbors: int) -> None:
        self.n_neighbors = n_neighbors

    def get_params(self) -> dict[str, int]:
        """Return the settings."""
        return {"n_neighbors": self.n_neighbors}

    def fit_transform(self, vectors: np.ndarray) -> csr_matrix:
        """Return distances of each cell to its neighbours, itself first, shape `(cells, cells)`.

        `vectors`, of shape `(cells, dims)`, should be centred, for the sake of precision.
        """
        vectors = np.asarray(vectors, dtype=np.float32)
        squares = (vectors**2).sum(axis=1)
        # These scalar products fall as distances rise: x.y - |y|^2 / 2 = (|x|^2 - |x - y|^2) / 2.
        query = np.column_stack([vectors, np.ones_like(squares)])
        rows, products = nearest_cells(query, np.column_stack([vectors, -squares / 2]), self.n_neighbors)
        distances = np.sqrt(np.maximum(squares[:, None] - 2 * products, 0))
        _put_itself_first(rows, distances)
        starts = np.arange(0, rows.size + 1, rows.shape[1])
        return sparse.csr_matrix((distances.ravel(), rows.ravel(), starts), shape=(len(rows), len(rows)))


def _put_itself_first(rows: np.ndarray, distances: np.ndarray) -> None:
    """Make each cell its own first neighbour, also where others equal it; the rest stay in order."""
    itself = np.arange(len(rows))
    found = rows == itself[:, None]  # (cells, neighbours)
    at = np.where(found.any(axis=1), found.argmax(axis=1), rows.shape[1] - 1)
    for column in range(rows.shape[1] - 1, 0, -1):
        moved = at >= column
        rows[moved, column], distances[moved, column] = rows[moved, column - 1], distances[moved, column - 1]
    rows[:, 0], distances[:, 0] = itself, 0
