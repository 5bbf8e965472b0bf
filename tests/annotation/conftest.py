from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest


class Blobs(NamedTuple):
    vectors: np.ndarray
    codes: np.ndarray


def make_blobs(
    n_cells: int = 300, *, n_labels: int = 4, n_dims: int = 10, distance: float = 6.0, seed: int = 0
) -> Blobs:
    """Cells around one centre per label, elongated along a direction that has nothing to do with the labels."""
    rng = np.random.default_rng(seed)
    codes = np.arange(n_cells) % n_labels
    vectors = rng.standard_normal((n_cells, n_dims))
    vectors[:, -1] *= 20
    vectors[np.arange(n_cells), codes] += distance
    return Blobs(vectors.astype(np.float32), codes)


@pytest.fixture
def reference() -> Blobs:
    return make_blobs()


@pytest.fixture
def query() -> Blobs:
    return make_blobs(120, seed=1)
