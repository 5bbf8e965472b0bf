"""How far a cell is from the cells of a reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import ledoit_wolf

from sfm.nn import ReferenceDistance
from sfm.nn._covariance import shrunk_covariance

N_DIMS = 6


def clusters(n: int = 400, *, n_labels: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Cells around some centers, stretched along one direction; the distances are far above the spread."""
    generator = torch.Generator().manual_seed(seed)
    centers = 20 * torch.randn(n_labels, N_DIMS, generator=torch.Generator().manual_seed(99))
    codes = torch.arange(n) % n_labels
    stretch = torch.linspace(0.5, 3, N_DIMS)
    return centers[codes] + stretch * torch.randn(n, N_DIMS, generator=generator), codes


def fitted(**settings: Any) -> ReferenceDistance:
    distance = ReferenceDistance(3, N_DIMS)
    distance.fit(*clusters(), **settings)
    return distance


def test_before_fit_there_is_no_distance() -> None:
    distance = ReferenceDistance(3, N_DIMS)
    assert not distance.is_fitted
    for compute in (distance, distance.distances):
        with pytest.raises(RuntimeError, match=r"has not seen any cells. Call fit"):
            compute(torch.zeros(1, N_DIMS))
    distance.fit(*clusters())
    assert distance.is_fitted


def test_distance_is_that_of_mahalanobis_to_the_nearest_mean() -> None:
    distance = fitted()
    vectors, codes = clusters()
    means = torch.stack([vectors[codes == label].double().mean(dim=0) for label in range(3)])
    deviations = vectors.double() - means[codes]
    covariance = shrunk_covariance(deviations * (400 / 397) ** 0.5).numpy()
    precision = np.linalg.inv(covariance)
    np.testing.assert_allclose(distance.precision.numpy(), precision, rtol=0.01, atol=1e-3)
    queries = clusters(20, seed=1)[0]
    expected = [min(mahalanobis(q, mean, precision) for mean in means.numpy()) for q in queries.double().numpy()]
    np.testing.assert_allclose(distance.distances(queries).numpy(), expected, rtol=0.01)


@pytest.mark.parametrize(("n", "n_dims"), [(5, 20), (30, 20), (500, 4)])
def test_shrinkage_is_that_of_ledoit_and_wolf(n: int, n_dims: int) -> None:
    rows = torch.randn(n, n_dims, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = rows * torch.linspace(0.1, 2, n_dims, dtype=torch.float64)
    expected, _ = ledoit_wolf(rows.numpy(), assume_centered=True)
    np.testing.assert_allclose(shrunk_covariance(rows).numpy(), expected, rtol=1e-10, atol=1e-12)


def test_new_cells_like_the_reference_are_anywhere_between_0_and_1() -> None:
    novelty = fitted()(clusters(2000, seed=1)[0])
    shares = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    found = torch.tensor([(novelty <= share).float().mean() for share in shares])
    torch.testing.assert_close(found, shares, atol=0.06, rtol=0)


def test_cells_far_from_the_reference_are_further_than_all() -> None:
    distance = fitted()
    assert (distance(clusters()[0] + 100) == 1).all()
    means = distance.means[distance.has_cells]
    assert (distance(means) == 0).all()
    assert (distance(means[:2].mean(dim=0, keepdim=True)) == 1).all(), "between two classes is no class"


@given(st.lists(st.floats(0, 30, width=32), min_size=2, max_size=20))
def test_novelty_grows_with_distance(steps: list[float]) -> None:
    distance = fitted()
    direction = torch.ones(N_DIMS) / N_DIMS**0.5
    along = distance.means[0] + torch.tensor(sorted(steps)).unsqueeze(1) * direction
    lengths, novelty = distance.distances(along), distance(along)
    order = lengths.argsort()
    assert (novelty[order].diff() >= 0).all()
    assert ((novelty >= 0) & (novelty <= 1)).all()


def test_novelty_is_the_share_of_reference_cells_that_are_at_most_as_far() -> None:
    distance = fitted()
    queries = clusters(50, seed=1)[0]
    others = clusters(10_000, seed=2)[0]
    distance.fit(*clusters(), held_out=others)
    lengths, reference = distance.distances(queries), distance.distances(others)
    expected = (reference <= lengths.unsqueeze(1)).float().mean(dim=1)
    torch.testing.assert_close(distance(queries), expected, atol=0.01, rtol=0)


def test_held_out_cells_replace_the_folds() -> None:
    """Cells that a network was trained on lie nearer to each other than others do."""
    near, codes = clusters()
    shrunk = ReferenceDistance(3, N_DIMS)
    means = torch.stack([near[codes == label].mean(dim=0) for label in range(3)])
    drawn_together = means[codes] + 0.2 * (near - means[codes])
    shrunk.fit(drawn_together, codes)
    others = clusters(2000, seed=1)[0]
    assert shrunk(others).mean() > 0.95
    shrunk.fit(drawn_together, codes, held_out=clusters(500, seed=2)[0])
    assert shrunk(others).mean() == pytest.approx(0.5, abs=0.05)


def test_fit_is_deterministic_and_ignores_unlabelled_cells() -> None:
    vectors, codes = clusters()
    first, second = ReferenceDistance(3, N_DIMS), ReferenceDistance(3, N_DIMS)
    first.fit(vectors, codes)
    unlabelled = torch.full((50,), -100)
    second.fit(torch.cat([vectors, torch.randn(50, N_DIMS) * 100]).numpy(), torch.cat([codes, unlabelled]).numpy())
    for name, buffer in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], buffer), name


def test_what_is_fitted_does_not_depend_on_what_was_before() -> None:
    again = fitted()
    again.fit(clusters(90, seed=5)[0] + 3, clusters(90)[1])
    again.fit(*clusters())
    for name, buffer in fitted().state_dict().items():
        assert torch.equal(again.state_dict()[name], buffer), name


def test_labels_without_cells_are_nowhere() -> None:
    vectors, codes = clusters()
    distance = ReferenceDistance(5, N_DIMS)
    distance.fit(vectors, codes + 1)
    assert distance.has_cells.tolist() == [False, True, True, True, False]
    assert all(torch.isfinite(buffer).all() for buffer in distance.state_dict().values())
    queries = torch.cat([clusters(20, seed=1)[0], torch.zeros(1, N_DIMS)])
    torch.testing.assert_close(distance(queries), fitted()(queries))


def test_extended_labels_have_no_cells() -> None:
    distance = fitted()
    queries = clusters(20, seed=1)[0]
    before = distance(queries)
    distance.extend(2)
    assert distance.means.shape == (5, N_DIMS)
    assert distance.has_cells.tolist() == [True, True, True, False, False]
    assert torch.equal(distance(queries), before)
    distance.fit(*clusters(n_labels=5))
    assert distance.has_cells.all()


@pytest.mark.parametrize(
    "codes",
    [
        [0, 1],
        [0, 0],
        [0, 0, 0, 1, 2],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 1, 2, 0, 1, 2],
    ],
)
def test_few_cells_are_enough(codes: list[int]) -> None:
    vectors = clusters(len(codes))[0]
    distance = ReferenceDistance(3, N_DIMS)
    distance.fit(vectors, torch.tensor(codes))
    assert all(torch.isfinite(buffer).all() for buffer in distance.state_dict().values())
    novelty = distance(torch.cat([vectors, vectors + 1000]))
    assert torch.isfinite(novelty).all()
    assert (novelty[len(codes) :] == 1).all()


def test_the_only_cell_of_a_label_does_not_count_as_far() -> None:
    """Held out, it would be compared with other labels alone."""
    vectors, codes = clusters(n_labels=2)
    alone = ReferenceDistance(3, N_DIMS)
    alone.fit(torch.cat([vectors, torch.full((1, N_DIMS), 500.0)]), torch.cat([codes, torch.tensor([2])]))
    assert alone.quantiles.max() < 20
    assert alone(torch.full((1, N_DIMS), 500.0)) == 0


def test_equal_cells_are_no_error() -> None:
    distance = ReferenceDistance(2, N_DIMS)
    distance.fit(torch.ones(10, N_DIMS), torch.arange(10) % 2)
    assert distance(torch.ones(1, N_DIMS)) == 1  # as far as all of them: not at all
    assert distance(torch.zeros(1, N_DIMS)) == 1


def test_a_direction_without_variance_does_not_decide_alone() -> None:
    vectors, codes = clusters()
    vectors[:, 0] = 7.0
    distance = ReferenceDistance(3, N_DIMS)
    distance.fit(vectors, codes)
    queries, _ = clusters(200, seed=1)
    queries[:, 0] = 7.0 + 1e-3  # rounding of half precision
    assert distance(queries).mean() == pytest.approx(0.5, abs=0.1)


def test_a_cell_depends_on_itself_alone() -> None:
    distance = fitted()
    queries = clusters(64, seed=1)[0]
    alone = torch.cat([distance(query.unsqueeze(0)) for query in queries])
    torch.testing.assert_close(distance(queries), alone, atol=1e-5, rtol=0)


def test_half_precision_on_disk_changes_little() -> None:
    distance = fitted()
    half = ReferenceDistance(3, N_DIMS)
    half.load_state_dict({name: b.half() if b.is_floating_point() else b for name, b in distance.state_dict().items()})
    queries = clusters(500, seed=1)[0]
    torch.testing.assert_close(half(queries), distance(queries), atol=0.05, rtol=0)


def test_mixed_precision_around_it_changes_nothing() -> None:
    distance = fitted()
    queries = clusters(50, seed=1)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        novelty = distance(queries)
    assert torch.equal(novelty, distance(queries))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vectors": torch.ones(4, 5)}, r"vectors has shape \(4, 5\), but cells of 6 dimensions"),
        ({"vectors": torch.ones(4, N_DIMS), "codes": torch.zeros(3)}, r"4 vectors, but codes has shape \(3,\)"),
        ({"codes": torch.tensor([0, 1, 2, 3])}, "codes goes up to 3, but there are 3 labels"),
        ({"codes": torch.tensor([0, -1, -1, -100])}, "Of 4 cells 1 have a label"),
        ({"vectors": torch.full((4, N_DIMS), torch.nan)}, "vectors holds NaN"),
        ({"held_out": torch.ones(0, N_DIMS)}, r"held_out has shape \(0, 6\)"),
        ({"n_folds": 1}, "n_folds=1"),
    ],
)
def test_misfits_are_refused_and_change_nothing(settings: dict[str, Any], message: str) -> None:
    distance = fitted()
    before = {name: buffer.clone() for name, buffer in distance.state_dict().items()}
    cells = {"vectors": torch.randn(4, N_DIMS), "codes": torch.tensor([0, 0, 1, 1])}
    with pytest.raises(ValueError, match=message):
        distance.fit(**cells | settings)
    assert all(torch.equal(distance.state_dict()[name], buffer) for name, buffer in before.items())
