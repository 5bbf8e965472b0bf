from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from sfm import metrics
from sfm.pl import reliability, risk_coverage

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData


def best(adata: AnnData) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and correctness of the most probable labels, of rejected cells too."""
    probabilities = adata.obsm["sfm_label_probabilities"]
    correct = probabilities.idxmax(axis=1) == adata.obs["truth"].astype(str)
    return probabilities.max(axis=1).to_numpy(), correct.to_numpy()


@pytest.mark.parametrize("n_bins", [5, 15])
def test_reliability_draws_the_curve_and_the_histogram(annotated: AnnData, n_bins: int) -> None:
    axes = reliability(annotated, "truth", n_bins=n_bins, show=False)
    curve_axes, histogram_axes = axes.figure.axes
    assert curve_axes is axes
    confidence, correct = best(annotated)
    curve = metrics.reliability_curve(confidence, correct, n_bins=n_bins)
    drawn = axes.lines[1].get_xydata()
    np.testing.assert_allclose(drawn, curve.dropna()[["confidence", "accuracy"]], rtol=1e-6)
    assert [bar.get_height() for bar in histogram_axes.patches] == curve["n"].tolist()
    error = metrics.expected_calibration_error(confidence, correct, n_bins=n_bins)
    assert axes.get_title() == f"expected calibration error {error:.3f}"


def test_names_that_files_do_not_allow_as_columns_are_read_back(annotated: AnnData) -> None:
    before = reliability(annotated, "truth", show=False).lines[1].get_xydata()
    names = annotated.obsm["sfm_label_probabilities"].columns
    annotated.uns["sfm_label"]["params"]["labels"] = [f"{name}/blood" for name in names]
    for slot in ("truth", "sfm_label"):
        new = {name: f"{name}/blood" for name in names if name in set(annotated.obs[slot])}
        annotated.obs[slot] = annotated.obs[slot].cat.rename_categories(new)
    annotated.obsm["sfm_label_probabilities"].columns = [f"{name}|blood" for name in names]
    after = reliability(annotated, "truth", show=False).lines[1].get_xydata()
    np.testing.assert_array_equal(after, before)


def test_reliability_is_that_of_the_most_probable_label(annotated: AnnData) -> None:
    before = reliability(annotated, "truth", show=False)
    annotated.obs["sfm_label"] = "lymphocyte"  # outvoted, or a broader label
    after = reliability(annotated, "truth", show=False)
    np.testing.assert_array_equal(after.lines[1].get_xydata(), before.lines[1].get_xydata())
    del annotated.obsm["sfm_label_probabilities"]
    given = reliability(annotated, "truth", show=False)
    assert not given.lines[1].get_ydata().any()


def test_risk_is_that_of_the_labels_that_were_given(annotated: AnnData) -> None:
    annotated.obs["sfm_label"] = "lymphocyte"
    axes = risk_coverage(annotated, "truth", show=False)
    assert (axes.lines[0].get_ydata() == 1).all()


def test_reliability_shares_the_confidence_axis(annotated: AnnData) -> None:
    axes = reliability(annotated, "truth", show=False)
    axes.figure.draw_without_rendering()
    above, below = (part.get_window_extent() for part in axes.figure.axes)
    assert above.y0 > below.y1
    np.testing.assert_allclose([above.x0, above.x1], [below.x0, below.x1])


def test_risk_coverage_draws_the_curve_and_what_was_kept(annotated: AnnData) -> None:
    axes = risk_coverage(annotated, "truth", show=False)
    confidence, correct = best(annotated)
    curve = metrics.risk_coverage(confidence, correct)
    np.testing.assert_allclose(axes.lines[0].get_xydata(), curve[["coverage", "risk"]], rtol=1e-6)
    kept = (annotated.obs["sfm_label"] != "unknown").to_numpy()
    np.testing.assert_allclose(axes.lines[1].get_xydata(), [[kept.mean(), 1 - correct[kept].mean()]])
    area = metrics.area_under_risk_coverage(confidence, correct)
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == [f"sfm_label (area {area:.3f})", "kept by the annotation"]


def test_several_keys_are_compared_on_the_same_cells(annotated: AnnData) -> None:
    annotated.obs["other"] = annotated.obs["truth"].astype(str)
    annotated.obs["other_confidence"] = 1.0
    annotated.obs.loc[annotated.obs_names[:20], "other"] = None
    axes = risk_coverage(annotated, "truth", key=["sfm_label", "other"], show=False)
    confidence, correct = best(annotated[20:])
    np.testing.assert_allclose(
        axes.lines[0].get_xydata(), metrics.risk_coverage(confidence, correct)[["coverage", "risk"]], rtol=1e-6
    )
    assert [text.get_text() for text in axes.get_legend().get_texts()][1] == "other (area 0.000)"


def test_one_wrong_but_certain_cell_does_not_set_the_scale(annotated: AnnData) -> None:
    labels = annotated.obs["truth"].astype(str)
    labels.iloc[0] = "another"
    annotated.obs["sfm_label"] = pd.Categorical(labels)
    annotated.obs["sfm_label_confidence"] = np.linspace(1, 0.5, annotated.n_obs)
    axes = risk_coverage(annotated, "truth", show=False)
    assert axes.lines[0].get_ydata()[0] == 1
    assert axes.get_ylim()[1] < 0.2


def test_labels_that_are_never_wrong_have_an_axis(annotated: AnnData) -> None:
    annotated.obs["sfm_label"] = annotated.obs["truth"]
    axes = risk_coverage(annotated, "truth", show=False)
    assert axes.get_ylim() == (0, 0.05)


def test_no_key_is_refused(annotated: AnnData) -> None:
    with pytest.raises(ValueError, match=r"key=\[\] names no labels"):
        risk_coverage(annotated, "truth", key=[])


@pytest.mark.parametrize("plot", [reliability, risk_coverage])
def test_scores_are_no_confidences(plot: object, annotated: AnnData) -> None:
    annotated.obs["sfm_label_confidence"] *= 3
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        plot(annotated, "truth")


@pytest.mark.parametrize("plot", [reliability, risk_coverage])
def test_true_labels_that_the_reference_lacks_are_listed(plot: Callable[..., Any], annotated: AnnData) -> None:
    annotated.obs["truth"] = annotated.obs["truth"].cat.rename_categories({"B cell": "B cells"})
    annotated.obs.loc[annotated.obs_names[:9], "truth"] = np.nan
    n_cells = int((annotated.obs["truth"] == "B cells").sum())
    pattern = (
        rf"{n_cells} of 191 cells have a true label that is not in adata.uns\['sfm_label'\]\['params'\]\['labels'\].*"
        rf"'B cells' \({n_cells}\)\. .*adata.obs\['truth'\].astype\(object\).replace\({{'B cells': ...}}\)"
    )
    with pytest.warns(UserWarning, match=pattern):
        plot(annotated, "truth", show=False)
    annotated.obs["truth"] = annotated.obs["truth"].astype(object).replace({"B cells": "B cell"})
    plot(annotated, "truth", show=False)


def test_a_broader_label_that_was_given_may_be_the_true_one(annotated: AnnData) -> None:
    annotated.obs["truth"] = annotated.obs["sfm_label"] = "lymphocyte"
    assert (risk_coverage(annotated, "truth", show=False).lines[0].get_ydata() == 0).all()
    with pytest.warns(UserWarning, match=r"200 of 200 cells .*'lymphocyte' \(200\)"):
        reliability(annotated, "truth", show=False)


@pytest.mark.parametrize("plot", [reliability, risk_coverage])
def test_many_labels_that_the_reference_lacks_are_listed_in_part(plot: Callable[..., Any], annotated: AnnData) -> None:
    annotated.obs["truth"] = [f"type {i % 13}" for i in range(annotated.n_obs)]
    with pytest.warns(UserWarning, match=r"'type 9' \(15\) and 3 more\."):
        plot(annotated, "truth", show=False)
