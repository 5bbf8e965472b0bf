from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfm.metrics import (
    area_under_risk_coverage,
    expected_calibration_error,
    reliability_curve,
    risk_coverage,
)

MEASURES = [area_under_risk_coverage, expected_calibration_error, reliability_curve, risk_coverage]
cells = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


@given(cells, st.integers(1, 20))
def test_bins_hold_every_cell_once(pairs: list[tuple[float, bool]], n_bins: int) -> None:
    confidence, correct = map(np.array, zip(*pairs, strict=True))
    curve = reliability_curve(confidence, correct, n_bins=n_bins)
    filled = curve[curve["n"] > 0]
    assert len(curve) == n_bins
    assert curve["n"].sum() == len(pairs)
    assert (filled["accuracy"] * filled["n"]).sum() == pytest.approx(correct.sum())
    assert (filled["confidence"] * filled["n"]).sum() == pytest.approx(confidence.sum())
    assert ((filled["lower"] - 1e-12 <= filled["confidence"]) & (filled["confidence"] <= filled["upper"] + 1e-12)).all()
    assert curve.loc[curve["n"] == 0, ["accuracy", "confidence"]].isna().all(axis=None)


@given(cells)
def test_error_is_between_the_overall_gap_and_the_mean_gap(pairs: list[tuple[float, bool]]) -> None:
    confidence, correct = map(np.array, zip(*pairs, strict=True))
    error = expected_calibration_error(confidence, correct)
    assert abs(confidence.mean() - correct.mean()) - 1e-9 <= error <= np.abs(confidence - correct).mean() + 1e-9


def test_error_of_bins_by_hand() -> None:
    confidence = [0.1, 0.2, 0.7, 0.9]
    correct = [False, True, True, False]
    # lower half: 0.15 against 0.5; upper half: 0.8 against 0.5
    assert expected_calibration_error(confidence, correct, n_bins=2) == pytest.approx(0.5 * 0.35 + 0.5 * 0.3)


def test_calibrated_draws_have_a_small_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(size=100_000)
    correct = rng.uniform(size=100_000) < confidence
    assert expected_calibration_error(confidence, correct) < 0.01
    assert expected_calibration_error(confidence**3, correct) > 0.1


@pytest.mark.parametrize(("value", "row"), [(0.0, 0), (0.5, 0), (0.500001, 1), (1.0, 1)])
def test_bins_include_their_upper_edge(value: float, row: int) -> None:
    assert reliability_curve([value], [True], n_bins=2)["n"].to_numpy()[row] == 1


@pytest.mark.parametrize("measure", MEASURES)
def test_order_and_container_do_not_matter(measure: object) -> None:
    rng = np.random.default_rng(1)
    confidence, correct = rng.integers(5, size=50) / 4, rng.random(50) < 0.6
    order = rng.permutation(50)
    expected = measure(confidence, correct)
    for same in (
        measure(confidence[order], correct[order]),
        measure(list(confidence), list(correct)),
        measure(pd.Series(confidence), pd.Series(correct, dtype="boolean")),
        measure(confidence.astype(np.float32), correct.astype(int)),
    ):
        np.testing.assert_allclose(np.asarray(same), np.asarray(expected), atol=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [
        ([], [], "are empty"),
        ([0.5], [True, False], r"shape \(1,\) and correct has shape \(2,\)"),
        ([[0.5]], [[True]], "one number of each per cell"),
        ([0.5, np.nan], [True, True], "NaN for 1 of 2 cells"),
        ([0.5, 1.2], [True, True], r"outside \[0, 1\], such as 1.2"),
        ([-0.1], [True], r"outside \[0, 1\], such as -0.1"),
        (["high"], [True], "no numbers"),
        ([0.5, 0.5], [1.0, np.nan], "neither true nor false, such as"),
        ([0.5], [2], "neither true nor false, such as"),
        ([0.5], ["True"], "neither true nor false, such as"),
        ([0.5, 0.5], pd.array([True, None], dtype="boolean"), "neither true nor false, such as <NA>"),
    ],
)
def test_bad_input_is_refused(measure: object, confidence: object, correct: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(confidence, correct)


@pytest.mark.parametrize("n_bins", [0, -1, 2.5, True])
def test_number_of_bins_is_checked(n_bins: object) -> None:
    with pytest.raises(ValueError, match="is not a positive number of bins"):
        reliability_curve([0.5], [True], n_bins=n_bins)


def test_rounding_of_float32_is_no_error() -> None:
    just_above = np.nextafter(np.float32(1), np.float32(2))
    assert reliability_curve([just_above], [True])["confidence"].max() == 1
