"""What is not in the reference is told from what is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from sfm.annotation._classifier import CLASSIFIERS
from sfm.annotation._held_out import hold_out
from sfm.annotation._novelty import Novelty, Typicality

from .conftest import Blobs, make_blobs

if TYPE_CHECKING:
    from collections.abc import Callable


def novelty_from(reference: Blobs, n_labels: int, n_views: int = 1) -> Callable[[np.ndarray], np.ndarray]:
    views = [reference.vectors] * n_views
    held = hold_out([CLASSIFIERS.load("prototype")], views, reference.codes, n_labels=n_labels)
    novelty = Novelty([Typicality().fit(view, reference.codes) for view in views], held.distances)
    return lambda vectors: novelty([vectors] * n_views)


@pytest.mark.parametrize("left_out", range(5))
def test_cells_of_a_type_that_was_left_out_are_novel(left_out: int) -> None:
    everything, query = make_blobs(500, n_labels=5), make_blobs(200, n_labels=5, seed=1)
    known = everything.codes != left_out
    _, codes = np.unique(everything.codes[known], return_inverse=True)
    novelty = novelty_from(Blobs(everything.vectors[known], codes), 4)(query.vectors)
    assert roc_auc_score(query.codes == left_out, novelty) > 0.95


def test_known_cells_are_as_novel_as_those_of_the_reference(reference: Blobs) -> None:
    novelty = novelty_from(reference, 4)(make_blobs(2000, seed=3).vectors)
    assert novelty.dtype == np.float32
    for share in (0.1, 0.5, 0.9):
        assert (novelty <= share).mean() == pytest.approx(share, abs=0.1)


def test_a_cell_is_judged_alone(reference: Blobs, query: Blobs) -> None:
    novelty = novelty_from(reference, 4)
    alone = [novelty(query.vectors[i : i + 1])[0] for i in range(len(query.vectors))]
    np.testing.assert_allclose(alone, novelty(query.vectors), atol=0.01)


def test_a_shift_that_leaves_the_labels_apart_is_forgiven_more_than_a_new_type(reference: Blobs) -> None:
    """As between chemistries: all cells are moved, along a direction in which cells of a label vary anyway."""
    novelty, shifted = novelty_from(reference, 4), make_blobs(400, seed=2).vectors
    shifted[:, -1] += 30
    far = make_blobs(400, seed=2).vectors
    far[:, :4] = 12
    assert (novelty(shifted) > 0.99).mean() < 0.3
    assert (novelty(far) > 0.99).mean() > 0.95


def test_the_same_view_twice_changes_nothing(reference: Blobs, query: Blobs) -> None:
    np.testing.assert_allclose(novelty_from(reference, 4, 2)(query.vectors), novelty_from(reference, 4)(query.vectors))


def test_cells_that_are_moved_in_one_view_are_less_novel_than_in_both(reference: Blobs) -> None:
    vectors, moved = make_blobs(400, seed=2).vectors, make_blobs(400, seed=2).vectors
    moved[:, :4] = 12
    views = [reference.vectors, reference.vectors[:, ::-1]]
    held = hold_out([CLASSIFIERS.load("prototype")], views, reference.codes, n_labels=4)
    novelty = Novelty([Typicality().fit(view, reference.codes) for view in views], held.distances)
    none, one, both = (novelty([a, b[:, ::-1]]) for a, b in [(vectors, vectors), (moved, vectors), (moved, moved)])
    assert (one >= none).all()
    assert (one < 0.99).mean() > 0.5
    assert (both > 0.99).mean() > 0.95


@pytest.mark.parametrize("n_cells", [2, 4])
def test_hardly_any_reference_cells_will_do(reference: Blobs, query: Blobs, n_cells: int) -> None:
    few = Typicality().fit(reference.vectors[:n_cells], np.arange(n_cells) % 2)
    assert np.isfinite(few.distances(query.vectors)).all()
