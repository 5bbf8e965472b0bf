"""Nearest cells are found exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from sfm.annotation import _neighbors
from sfm.annotation._neighbors import nearest_cells, unit_vectors


def cells(n_cells: int, seed: int, n_dims: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n_cells, n_dims)).astype(np.float32)


@given(n_query=st.integers(1, 40), n_reference=st.integers(1, 60), k=st.integers(1, 20), block=st.integers(1, 500))
def test_equal_to_brute_force_whatever_the_block(n_query: int, n_reference: int, k: int, block: int) -> None:
    query, reference = cells(n_query, 0), cells(n_reference, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_neighbors, "_BLOCK_VALUES", block)
        rows, similarities = nearest_cells(unit_vectors(query), unit_vectors(reference), k)
    k = min(k, n_reference)
    expected = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(reference)
    distances, expected_rows = expected.kneighbors(query)
    np.testing.assert_allclose(1 - similarities, distances, atol=1e-5)
    assert np.mean(rows == expected_rows) > 0.99


def test_vectors_of_zeros_stay_and_are_similar_to_nothing() -> None:
    query = unit_vectors(np.zeros((1, 8)))
    assert not query.any()
    _, similarities = nearest_cells(query, unit_vectors(cells(5, 0)), 5)
    assert not similarities.any()
