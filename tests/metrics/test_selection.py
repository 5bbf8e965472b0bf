from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfm.metrics import area_under_risk_coverage, risk_coverage

# Few levels, so that most cells are tied with others.
cells = st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.booleans()), min_size=1, max_size=40)


@given(cells)
def test_every_row_is_what_its_threshold_keeps(pairs: list[tuple[float, bool]]) -> None:
    confidence, correct = map(np.array, zip(*pairs, strict=True))
    curve = risk_coverage(confidence, correct)
    assert sorted(set(confidence), reverse=True) == curve["threshold"].tolist()
    for threshold, coverage, risk in curve.itertuples(index=False):
        kept = confidence >= threshold
        assert coverage == pytest.approx(kept.mean())
        assert risk == pytest.approx(1 - correct[kept].mean())
    assert curve["coverage"].iloc[-1] == 1


@given(st.permutations(list(range(8))), st.lists(st.booleans(), min_size=8, max_size=8))
def test_area_without_ties_is_the_mean_risk_of_the_most_certain_cells(ranks: list[int], correct: list[bool]) -> None:
    confidence, right = np.array(ranks) / 8, np.array(correct)
    wrong = ~right[np.argsort(-confidence)]
    risks = wrong.cumsum() / np.arange(1, 9)
    assert area_under_risk_coverage(confidence, right) == pytest.approx(risks.mean())


@given(cells)
def test_area_is_the_error_rate_for_one_confidence(pairs: list[tuple[float, bool]]) -> None:
    correct = np.array([right for _, right in pairs])
    assert area_under_risk_coverage(np.full(len(pairs), 0.5), correct) == pytest.approx(1 - correct.mean())


@given(st.permutations(list(range(8))), st.lists(st.booleans(), min_size=8, max_size=8))
def test_the_area_is_smallest_where_wrong_labels_are_least_certain(ranks: list[int], correct: list[bool]) -> None:
    right = np.array(sorted(correct))
    best = area_under_risk_coverage(np.arange(8) / 8, right)
    worst = area_under_risk_coverage(np.arange(8)[::-1] / 8, right)
    assert best - 1e-9 <= area_under_risk_coverage(np.array(ranks) / 8, right) <= worst + 1e-9
