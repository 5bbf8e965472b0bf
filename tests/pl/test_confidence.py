from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color, to_hex

from sfm.pl import confidence

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData
    from matplotlib.axes import Axes


def points(axes: Axes) -> list[np.ndarray]:
    """Confidences that are drawn, for each group of points, sorted."""
    return [np.sort(np.asarray(drawn.get_offsets())[:, 0]) for drawn in axes.collections if len(drawn.get_offsets())]


def numbers(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_every_label_has_its_cells_and_rejected_ones_are_last(annotated: AnnData) -> None:
    axes = confidence(annotated, show=False)
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["B cell", "T cell", "monocyte", "unknown"]
    by_label = annotated.obs.groupby("sfm_label", observed=True)["sfm_label_confidence"]
    for drawn, name in zip(points(axes), names, strict=True):
        np.testing.assert_allclose(drawn, np.sort(by_label.get_group(name)), rtol=1e-6)
    assert numbers(axes) == [*(str(by_label.get_group(name).size) for name in names), "cells"]


def test_groups_count_their_rejected_cells(annotated: AnnData) -> None:
    axes = confidence(annotated, groupby="truth", show=False)
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == list(annotated.obs["truth"].cat.categories)
    rejected = (annotated.obs["sfm_label"] == "unknown").groupby(annotated.obs["truth"], observed=True)
    expected = [str(n) for name in names for n in (rejected.size()[name], rejected.sum()[name])]
    assert numbers(axes) == [*expected, "cells", "rejected"]
    assert sum(map(len, points(axes))) == annotated.n_obs


def test_boxes_are_quartiles(annotated: AnnData) -> None:
    axes = confidence(annotated, show=False)
    values = annotated.obs.loc[annotated.obs["sfm_label"] == "B cell", "sfm_label_confidence"]
    edges = axes.patches[0].get_path().vertices[:, 0]
    np.testing.assert_allclose([edges.min(), edges.max()], np.percentile(values, [25, 75]), rtol=1e-5)


def test_colors_of_the_groups_are_reused(annotated: AnnData) -> None:
    annotated.uns["truth_colors"] = ["#123456", "#654321", "#abcdef"]
    axes = confidence(annotated, groupby="truth", show=False)
    used = {to_hex(patch.get_facecolor()) for patch in axes.patches}
    assert {"#123456", "#654321", "#abcdef"} <= used


def test_threshold_is_drawn_if_there_was_one(annotated: AnnData) -> None:
    def at_threshold(axes: Axes) -> list[float]:
        return [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"]

    assert at_threshold(confidence(annotated, show=False)) == [0.5]
    annotated.uns["sfm_label"]["params"]["min_confidence"] = None
    assert at_threshold(confidence(annotated, show=False)) == []
    del annotated.uns["sfm_label"]
    assert at_threshold(confidence(annotated, show=False)) == []


def test_many_points_are_thinned_over_their_whole_range(annotated_cells: Callable[..., AnnData]) -> None:
    adata = annotated_cells(["only"], 5000)
    values = np.linspace(0.6, 1, 5000).astype(np.float32)
    adata.obs["sfm_label_confidence"] = values
    (drawn,) = points(confidence(adata, show=False))
    assert len(drawn) == 1000
    np.testing.assert_allclose([drawn[0], drawn[-1], np.median(drawn)], [0.6, 1, 0.8], atol=1e-3)


def test_few_cells_get_no_box(annotated_cells: Callable[..., AnnData]) -> None:
    adata = annotated_cells(["a", "b"], 100)
    adata.obs["sfm_label"] = pd.Categorical(["a"] * 97 + ["b"] * 3)
    axes = confidence(adata, show=False)
    assert len(axes.patches) == 1
    assert [len(drawn) for drawn in points(axes)] == [97, 3]


def test_cells_without_a_group_are_left_out(annotated: AnnData) -> None:
    annotated.obs.loc[annotated.obs_names[:50], "truth"] = np.nan
    assert sum(map(len, points(confidence(annotated, groupby="truth", show=False)))) == 150


def test_rejected_cells_are_grey(annotated: AnnData) -> None:
    axes = confidence(annotated, show=False)
    colors = [drawn.get_facecolor()[0, :3] for drawn in axes.collections if len(drawn.get_offsets())]
    assert [same_color(color, "#808080") for color in colors] == [False, False, False, True]


@pytest.mark.parametrize("n_labels", [3, 9, 30])
def test_labels_and_numbers_do_not_overlap(n_labels: int, annotated_cells: Callable[..., AnnData]) -> None:
    names = [f"a rather long name of cell type {i}, positive" for i in range(n_labels)]
    axes = confidence(annotated_cells(names, 600), groupby="truth", show=False)
    axes.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.get_yticklabels()]
    assert all(upper.y0 >= lower.y1 for upper, lower in zip(boxes, boxes[1:], strict=False))
    texts = [text.get_window_extent() for text in axes.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(texts) for b in texts[:i])
    assert all(box.x0 > axes.get_window_extent().x1 for box in texts)
    assert all(box.x1 <= axes.figure.bbox.x1 for box in texts)
