"""Probabilities mean what they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from sfm.annotation._calibration import CALIBRATIONS, CalibratedMean, Temperature, best_labels, calibration_report
from sfm.annotation._classifier import CLASSIFIERS
from sfm.annotation._held_out import hold_out
from sfm.annotation._vector_annotator import VectorAnnotator
from sfm.metrics import expected_calibration_error

from .conftest import make_blobs


def certain_cells(scale: float, n_cells: int = 3000, n_labels: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits `scale` times as large as they should be, and labels drawn from what they should be."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((n_cells, n_labels))
    uniform = rng.random((n_cells, 1))
    codes = (softmax(logits, axis=1).cumsum(axis=1) < uniform).sum(axis=1).clip(0, n_labels - 1)
    return (scale * logits).astype(np.float32), codes


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_temperature_undoes_a_wrong_scale(scale: float) -> None:
    assert Temperature().fit(*certain_cells(scale)).value == pytest.approx(scale, rel=0.1)


@pytest.mark.parametrize("kind", CALIBRATIONS)
@pytest.mark.parametrize("scale", [0.2, 5.0])
def test_new_cells_are_calibrated(kind: str, scale: float) -> None:
    fitted = CALIBRATIONS[kind]().fit(*certain_cells(scale))
    logits, codes = certain_cells(scale, seed=1)
    right = logits.argmax(axis=1) == codes
    before, after = softmax(logits, axis=1), fitted(logits)
    assert after.dtype == np.float32
    np.testing.assert_allclose(after.sum(axis=1), 1, atol=1e-5)
    assert after.min() >= 0
    errors = [
        expected_calibration_error(part[np.arange(3000), logits.argmax(axis=1)], right) for part in (before, after)
    ]
    assert errors[1] < 0.04 < errors[0]


def test_temperature_keeps_the_order_of_labels() -> None:
    logits, codes = certain_cells(5.0)
    assert (Temperature().fit(logits, codes)(logits).argsort(axis=1) == logits.argsort(axis=1)).mean() > 0.999


@pytest.mark.parametrize("kind", CALIBRATIONS)
@pytest.mark.parametrize("n_cells", [2, 20, 200])
def test_certainty_grows_with_the_number_of_cells_that_were_right(kind: str, n_cells: int) -> None:
    codes = np.arange(n_cells) % 2
    logits = np.where(codes[:, None] == np.arange(2), 1.0, 0.0)
    confidence = CALIBRATIONS[kind]().fit(logits, codes)(logits).max()
    assert confidence < 1
    assert confidence == pytest.approx(1 - 0.5 / (n_cells + 2), abs=1 / (n_cells + 2))


@pytest.mark.parametrize("kind", CALIBRATIONS)
def test_report_is_not_taken_from_the_cells_that_were_fitted(kind: str) -> None:
    """Labels that have nothing to do with the logits: cells that were fitted would look better than they are."""
    rng = np.random.default_rng(0)
    logits, codes = 4 * rng.standard_normal((500, 2)), rng.integers(2, size=500)
    report = calibration_report(kind, [logits], codes)  # type: ignore[arg-type]
    assert report.n_cells == 500
    assert report.accuracy == pytest.approx(0.5, abs=0.08)
    assert report.error < 0.12 < report.error_before


def test_report_of_several_is_that_of_their_mean() -> None:
    logits, codes = certain_cells(5.0)
    one = calibration_report("temperature", [logits], codes)
    two = calibration_report("temperature", [logits, logits], codes)
    assert (two.accuracy, two.error_before) == (one.accuracy, one.error_before)
    assert two.error == pytest.approx(one.error, abs=0.005)


@pytest.mark.parametrize("kind", CALIBRATIONS)
@pytest.mark.parametrize("n_judges", [1, 2])
def test_without_held_out_cells_probabilities_stay_what_they_are(kind: str, n_judges: int) -> None:
    views = [certain_cells(1.0, n_cells=20, seed=seed)[0] for seed in range(n_judges)]
    calibrated = CalibratedMean(kind, n_judges)  # type: ignore[arg-type]
    probabilities = calibrated.pooled(calibrated.each(views))
    np.testing.assert_allclose(probabilities, np.mean([softmax(part, axis=1) for part in views], axis=0), atol=1e-5)


def judged(seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """What two judges say of the same cells, each with noise of its own."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(4, size=2000)
    return [3 * rng.standard_normal((2000, 4)) + 4 * np.eye(4)[codes] for _ in range(2)], codes


@pytest.mark.parametrize("kind", CALIBRATIONS)
def test_judges_that_err_on_different_cells_are_calibrated_together(kind: str) -> None:
    fitted = CalibratedMean(kind, 2).fit(*judged(0))  # type: ignore[arg-type]
    logits, codes = judged(1)
    each = fitted.each(logits)
    probabilities, best, mean = fitted.pooled(each), best_labels(logits, each), np.mean(each, axis=0)
    assert np.array_equal(best, mean.argmax(axis=1))
    if kind == "temperature":  # isotonic regression may leave less than half to the best of two
        assert np.array_equal(best, probabilities.argmax(axis=1))
    right = best == codes
    errors = [expected_calibration_error(part[np.arange(2000), best], right) for part in (mean, probabilities)]
    assert errors[1] < 0.03 < errors[0]
    report = calibration_report(kind, logits, codes)  # type: ignore[arg-type]
    assert report.error < 0.03
    assert report.accuracy == pytest.approx(right.mean(), abs=0.01)


def test_cells_are_held_out_and_the_only_one_of_a_label_is_not() -> None:
    vectors, codes = make_blobs(101, n_labels=4)
    codes = np.append(codes[:-1], 4)
    held = hold_out(
        [CLASSIFIERS.load("knn"), CLASSIFIERS.load("prototype")], [vectors, vectors[:, ::-1]], codes, n_labels=5
    )
    assert np.array_equal(np.bincount(held.codes), np.bincount(codes[:-1]))
    assert np.shape(held.logits) == (2, 2, 100, 5)  # (classifiers, views, cells, labels)
    assert (np.argmax(held.logits, axis=3) == held.codes).mean(axis=2).min() > 0.9


def test_held_out_cells_are_not_in_the_reference_they_are_judged_by() -> None:
    """Random labels: a cell that saw itself would be right."""
    rng = np.random.default_rng(0)
    vectors, codes = rng.standard_normal((400, 5)).astype(np.float32), rng.integers(4, size=400)
    held = hold_out([lambda: CLASSIFIERS.load("knn")(1, whiten=False)], [vectors], codes, n_labels=4)
    assert (held.logits[0][0].argmax(axis=1) == held.codes).mean() < 0.35


def test_a_large_reference_is_held_out_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfm.annotation._held_out._MAX_CELLS", 50)
    vectors, codes = make_blobs(300)
    held = hold_out([CLASSIFIERS.load("prototype")], [vectors], codes, n_labels=4)
    assert len(held.codes) == 50
    assert set(np.bincount(held.codes)) <= {12, 13}  # in proportion


@pytest.mark.parametrize("n_held_out", [50, 4000])
def test_what_is_held_out_does_not_depend_on_the_order(n_held_out: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor on the last digits of the vectors, which differ when cells are embedded in other company."""
    monkeypatch.setattr("sfm.annotation._held_out._MAX_CELLS", n_held_out)
    vectors, codes = make_blobs(300)
    order = np.random.default_rng(1).permutation(300)
    noise = 1 + 1e-6 * np.random.default_rng(2).standard_normal(vectors.shape)
    one, other = (
        hold_out([CLASSIFIERS.load("knn")], [part], labels, n_labels=4)
        for part, labels in [(vectors, codes), ((vectors * noise).astype(np.float32)[order], codes[order])]
    )
    assert np.array_equal(one.codes, other.codes)
    np.testing.assert_allclose(one.distances, other.distances, atol=1e-3)
    np.testing.assert_allclose(one.logits, other.logits, atol=1e-2)


def annotator(vectors: np.ndarray, codes: np.ndarray) -> VectorAnnotator:
    views = {"model": vectors, "expression": vectors[:, ::-1].copy()}
    methods = ["knn", "logreg", "lda"]
    return VectorAnnotator(views, codes, n_labels=4, methods=methods, calibration="temperature", options={})


def test_a_reversed_reference_is_the_same_reference() -> None:
    vectors, codes = make_blobs(300, distance=2.0)
    query = make_blobs(100, distance=2.0, seed=1).vectors
    views = {"model": query, "expression": query[:, ::-1].copy()}
    one, other = annotator(vectors, codes), annotator(vectors[::-1].copy(), codes[::-1].copy())
    found = [part.classify(views).probabilities for part in (one, other)]
    np.testing.assert_allclose(*found, atol=1e-3)
    assert one.report == pytest.approx(other.report, abs=0.005)


def test_nothing_that_could_be_held_out_is_said_and_recorded() -> None:
    vectors, codes = make_blobs(4, n_labels=4)
    with pytest.warns(UserWarning, match="since none shares its label with another: confidence is not calibrated"):
        few = annotator(vectors, codes)
    assert few.novelty is None
    assert few.report["n_held_out"] == 0
    measured = ("expected_calibration_error", "expected_calibration_error_before", "held_out_accuracy")
    assert [few.report[name] for name in measured] == [None] * 3
    assert set(measured) <= set(annotator(*make_blobs(60)).report)
