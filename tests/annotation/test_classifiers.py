"""Classifiers of vectors: right where labels are apart, and each cell for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.covariance import EmpiricalCovariance
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from sfm.annotation._classifier import CLASSIFIERS
from sfm.annotation._knn import NearestNeighbors
from sfm.annotation._lda import LinearDiscriminant
from sfm.annotation._neighbors import unit_vectors
from sfm.annotation._prototype import NearestPrototype
from sfm.annotation._vector_annotator import checked_options
from sfm.annotation._whitening import WithinClassWhitening, class_means, shrunk_covariance

if TYPE_CHECKING:
    from .conftest import Blobs

METHODS = CLASSIFIERS.names()


def fitted(method: str, blobs: Blobs, n_labels: int = 4, **options: Any) -> Any:
    return CLASSIFIERS.load(method)(**options).fit(blobs.vectors, blobs.codes, n_labels=n_labels)


@pytest.mark.parametrize("method", METHODS)
def test_labels_that_are_apart_are_found(method: str, reference: Blobs, query: Blobs) -> None:
    logits = fitted(method, reference).logits(query.vectors)
    assert logits.shape == (120, 4)
    assert (logits.argmax(axis=1) == query.codes).mean() > 0.97


@pytest.mark.parametrize("method", METHODS)
def test_a_cell_is_judged_alone(method: str, reference: Blobs, query: Blobs) -> None:
    classifier = fitted(method, reference)
    together = classifier.logits(query.vectors)
    alone = np.concatenate([classifier.logits(query.vectors[i : i + 1]) for i in range(len(query.vectors))])
    np.testing.assert_allclose(softmax(alone, axis=1), softmax(together, axis=1), atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_order_of_the_reference_does_not_matter(method: str, reference: Blobs, query: Blobs) -> None:
    order = np.random.default_rng(0).permutation(len(reference.codes))
    shuffled = type(reference)(reference.vectors[order], reference.codes[order])
    before, after = (fitted(method, cells).logits(query.vectors) for cells in (reference, shuffled))
    np.testing.assert_allclose(softmax(after, axis=1), softmax(before, axis=1), atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_label_without_cells_is_improbable(method: str, reference: Blobs, query: Blobs) -> None:
    probabilities = softmax(fitted(method, reference, n_labels=5).logits(query.vectors), axis=1)
    assert probabilities.shape == (120, 5)
    assert (probabilities.argmax(axis=1) != 4).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_cells", [2, 3, 5])
def test_very_few_cells_will_do(method: str, reference: Blobs, query: Blobs, n_cells: int) -> None:
    few = type(reference)(reference.vectors[:n_cells], np.arange(n_cells) % 2)
    logits = fitted(method, few, n_labels=2).logits(query.vectors)
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("method", METHODS)
def test_cells_that_are_all_alike_will_do(method: str, query: Blobs) -> None:
    same = type(query)(np.ones((6, 10), dtype=np.float32), np.arange(6) % 2)
    assert np.isfinite(fitted(method, same, n_labels=2).logits(query.vectors)).all()


def test_neighbours_vote_by_their_lead_over_the_first_without_a_vote(reference: Blobs, query: Blobs) -> None:
    logits = NearestNeighbors(5, weight_of_means=1e-6, whiten=False).fit(*reference, n_labels=4).logits(query.vectors)
    similarity = unit_vectors(query.vectors) @ unit_vectors(reference.vectors).T
    for row, shares in zip(similarity, np.exp(logits), strict=True):
        nearest = np.argsort(-row)[:6]
        lead = row[nearest[:5]] - row[nearest[5]]
        expected = np.bincount(reference.codes[nearest[:5]], weights=lead, minlength=4) / lead.sum()
        np.testing.assert_allclose(shares, expected, atol=1e-3)


def test_equally_near_neighbours_vote_alike() -> None:
    vectors = np.repeat(np.eye(2, dtype=np.float32), 4, axis=0)  # four times each of two directions
    codes = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    logits = NearestNeighbors(4, whiten=False).fit(vectors[:4], codes[:4], n_labels=2).logits(vectors[:1])
    np.testing.assert_allclose(softmax(logits), [[0.9 * 2 / 3 + 0.05, 0.9 / 3 + 0.05]], atol=1e-3)


def test_cells_whose_neighbours_all_agree_are_told_apart_by_the_means_of_the_labels() -> None:
    angles = np.linspace(0, 0.4, 12)
    vectors = np.r_[np.c_[np.cos(angles), np.sin(angles)], [[0.6, 0.8]] * 6].astype(np.float32)
    codes = np.repeat([0, 1], [12, 6])
    query = np.array([[1, 0.2], [1, 0.45]], dtype=np.float32)  # at the mean of label 0, and on the way to label 1
    classifier = NearestNeighbors(3, whiten=False).fit(vectors, codes, n_labels=2)
    typical, between = softmax(classifier.logits(query), axis=1)[:, 0]
    assert 0.9 < between < typical - 0.01


def test_means_alone_decide_as_prototypes_do(reference: Blobs, query: Blobs) -> None:
    by_means = NearestNeighbors(5, weight_of_means=1, whiten=False).fit(*reference, n_labels=4).logits(query.vectors)
    prototypes = NearestPrototype(whiten=False).fit(*reference, n_labels=4).logits(query.vectors)
    np.testing.assert_allclose(softmax(by_means, axis=1), softmax(prototypes, axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("knn", {"n_neighbors": 0}, "n_neighbors=0: at least one"),
        ("knn", {"n_neighbors": -3}, "n_neighbors=-3: at least one"),
        ("knn", {"n_neighbors": 2.5}, "n_neighbors=2.5: .* whole number"),
        ("knn", {"n_neighbors": True}, "n_neighbors=True: .* whole number"),
        ("knn", {"weight_of_means": 0}, "weight_of_means=0 is not a share"),
        ("knn", {"weight_of_means": 1.5}, "weight_of_means=1.5 is not a share"),
        ("knn", {"weight_of_means": "0.5"}, "weight_of_means='0.5' is not a share"),
        ("knn", {"whiten": "no"}, "whiten='no' is neither True nor False"),
        ("prototype", {"whiten": 2}, "whiten=2 is neither True nor False"),
        ("logreg", {"C": 0}, "C=0 is not a number above 0"),
        ("logreg", {"C": "a"}, "C='a' is not a number above 0"),
        ("logreg", {"C": np.nan}, "C=nan is not a number above 0"),
        ("logreg", {"C": np.inf}, "C=inf is not a number above 0"),
        ("logreg", {"balanced": "x"}, "balanced='x' is neither"),
        ("lda", {"balanced": None}, "balanced=None is neither"),
    ],
)
def test_impossible_settings_are_refused(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        checked_options(method, options)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("knn", {"n_neighbors": np.int64(5), "weight_of_means": np.float32(0.5), "whiten": np.True_}),
        ("knn", {"weight_of_means": 1}),
        ("logreg", {"C": 1, "balanced": True}),
        ("logreg", {"C": None}),
        ("lda", {"balanced": np.False_}),
    ],
)
def test_numbers_of_numpy_are_settings(method: str, options: dict[str, Any], reference: Blobs, query: Blobs) -> None:
    assert checked_options(method, options) == options
    assert np.isfinite(fitted(method, reference, **options).logits(query.vectors)).all()


def test_balanced_labels_are_given_more_often(reference: Blobs, query: Blobs) -> None:
    rare = np.flatnonzero((reference.codes != 1) | (np.arange(300) < 20))
    few = type(reference)(reference.vectors[rare] * 0.3, reference.codes[rare])
    shares = [
        softmax(fitted("logreg", few, balanced=balanced).logits(query.vectors * 0.3), axis=1)[:, 1].mean()
        for balanced in (False, True)
    ]
    assert shares[1] > 1.2 * shares[0]


def test_whitening_makes_cells_of_a_label_vary_alike(reference: Blobs) -> None:
    white = WithinClassWhitening().fit(*reference)(reference.vectors)
    residuals = white - class_means(white, reference.codes)[reference.codes]
    variances = np.linalg.eigvalsh(np.cov(residuals.T))
    assert variances.max() / variances.min() < 3
    before = reference.vectors - class_means(reference.vectors, reference.codes)[reference.codes]
    assert np.linalg.cond(np.cov(before.T)) > 100


def test_whitening_does_not_depend_on_scale_and_position(reference: Blobs) -> None:
    plain = WithinClassWhitening().fit(*reference)(reference.vectors)
    moved = 50 * reference.vectors + 7
    np.testing.assert_allclose(
        np.abs(WithinClassWhitening().fit(moved, reference.codes)(moved)), np.abs(plain), atol=1e-2
    )


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_directions_in_which_labels_do_not_differ_can_weigh_less(weight: float, reference: Blobs) -> None:
    plain, weighted = (
        WithinClassWhitening(weight_of_rest=share).fit(*reference)(reference.vectors) for share in (1.0, weight)
    )
    between = class_means(plain, reference.codes)
    np.testing.assert_allclose(class_means(weighted, reference.codes), between, atol=1e-4)
    residuals = [white - class_means(white, reference.codes)[reference.codes] for white in (plain, weighted)]
    n_rest = plain.shape[1] - (len(between) - 1)
    total = [np.trace(np.cov(part.T)) for part in residuals]
    assert total[1] - total[0] == pytest.approx((weight**2 - 1) * n_rest * total[0] / plain.shape[1], rel=0.1)


@pytest.mark.parametrize("n_cells", [40, 300, 10_000])
def test_covariance_is_shrunk_as_by_ledoit_and_wolf(n_cells: int) -> None:
    from sklearn.covariance import ledoit_wolf

    sample = np.random.default_rng(0).standard_normal((n_cells, 10)) * np.arange(1, 11)
    shrunk = shrunk_covariance(iter(np.array_split(sample, 3)), n_cells=n_cells, n_dims=10)
    np.testing.assert_allclose(shrunk, ledoit_wolf(sample, assume_centered=True)[0], rtol=1e-9, atol=1e-9)


def test_directions_that_were_never_seen_to_vary_are_trusted_less() -> None:
    sample = np.random.default_rng(0).standard_normal((5, 100)) * np.arange(1, 101)
    shrunk = shrunk_covariance(iter([sample]), n_cells=5, n_dims=100)
    assert np.linalg.cond(shrunk) < 4


class Sphere(EmpiricalCovariance):
    """What the cells of a label are in after whitening."""

    def fit(self, vectors: np.ndarray, y: Any = None) -> Sphere:
        self._set_covariance(np.eye(vectors.shape[1]))
        return self


@pytest.mark.parametrize("balanced", [False, True])
def test_discriminant_is_that_of_scikit_learn(reference: Blobs, query: Blobs, balanced: bool) -> None:
    """With the same covariance; scikit-learn's own is shrunk label by label."""
    codes = np.where(reference.codes == 3, 0, reference.codes)  # labels of different sizes
    found = LinearDiscriminant(balanced=balanced).fit(reference.vectors, codes, n_labels=3).logits(query.vectors)
    white = WithinClassWhitening().fit(reference.vectors, codes)
    priors = np.full(3, 1 / 3) if balanced else None
    expected = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=Sphere(), priors=priors)
    expected.fit(white(reference.vectors), codes)
    probabilities = expected.predict_proba(white(query.vectors))
    np.testing.assert_allclose(softmax(found, axis=1), probabilities, atol=1e-4)
