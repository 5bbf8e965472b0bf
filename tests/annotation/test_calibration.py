"""Probabilities mean what they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from sfm.annotation._calibration import CALIBRATIONS, CalibratedMean, Temperature, calibration_report
from sfm.annotation._classifier import CLASSIFIERS
from sfm.annotation._held_out import hold_out
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
    probabilities, _ = CalibratedMean(kind, n_judges)(views)  # type: ignore[arg-type]
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
    probabilities, best = fitted(logits)
    mean = np.mean(fitted.each(logits), axis=0)
    assert np.array_equal(best, mean.argmax(axis=1))
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
    assert np.array_equal(held.codes, codes[:-1])
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
    assert set(held.codes) == {0, 1, 2, 3}
