from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from sfm.pl import annotation_confusion

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes


def cells(pairs: dict[tuple[object, object], int]) -> AnnData:
    """Cells with so many of each pair of true and given label."""
    truth, given = zip(*(pair for pair, n in pairs.items() for _ in range(n)), strict=True)
    adata = AnnData(np.zeros((len(truth), 1), dtype=np.float32))
    adata.obs["truth"] = pd.Series(truth, index=adata.obs_names, dtype=object)
    adata.obs["sfm_label"] = pd.Categorical(given)
    return adata


def table(axes: Axes) -> dict[tuple[str, str], str]:
    """What is written, by labels of row and column."""
    rows = [text.get_text().rsplit(" (", 1)[0] for text in axes.get_yticklabels()]
    columns = [text.get_text() for text in axes.get_xticklabels()]
    places = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
    return {(rows[row], columns[column]): text for (row, column), text in places.items()}


EXAMPLE = {
    ("B", "B"): 3,
    ("B", "unknown"): 1,
    ("T", "T"): 990,
    ("T", "NK"): 9,
    ("T", "B"): 1,
    ("platelet", "T"): 2,
}


def test_numbers_are_those_of_the_cells() -> None:
    axes = annotation_confusion(cells(EXAMPLE), "truth", normalize=False, show=False)
    assert table(axes) == {pair: str(n) for pair, n in EXAMPLE.items()}


def test_shares_are_those_of_the_row() -> None:
    axes = annotation_confusion(cells(EXAMPLE), "truth", show=False)
    written = {("B", "B"): "75", ("B", "unknown"): "25", ("T", "T"): "99", ("T", "NK"): "1", ("T", "B"): "<1"}
    assert table(axes) == {**written, ("platelet", "T"): "100"}
    shares = axes.images[0].get_array()
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    np.testing.assert_allclose(shares[1], [0.001, 0.99, 0.009, 0])


def test_shared_labels_are_on_the_diagonal_and_unknown_is_last() -> None:
    axes = annotation_confusion(cells(EXAMPLE), "truth", show=False)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["B (4)", "T (1,000)", "platelet (2)"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["B", "T", "NK", "unknown"]


def test_other_vocabularies_follow_the_rows() -> None:
    pairs = {("1 T", "z"): 5, ("2 B", "y"): 4, ("2 B", "z"): 1, ("10 NK", "x"): 3, ("10 NK", "unknown"): 9}
    axes = annotation_confusion(cells(pairs), "truth", show=False)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["1 T (5)", "2 B (5)", "10 NK (12)"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["z", "y", "x", "unknown"]


def test_order_of_categories_is_kept() -> None:
    adata = cells({("a", "a"): 1, ("b", "b"): 2, ("c", "c"): 3})
    adata.obs["truth"] = pd.Categorical(adata.obs["truth"], categories=["c", "unused", "a", "b"])
    axes = annotation_confusion(adata, "truth", show=False)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["c", "a", "b"]


def test_numbers_as_labels_are_read_as_text() -> None:
    axes = annotation_confusion(cells({(2, "2"): 1, (10, "10"): 1, (10, "2"): 1}), "truth", normalize=False, show=False)
    assert table(axes) == {("2", "2"): "1", ("10", "10"): "1", ("10", "2"): "1"}


def test_unknown_may_be_a_true_label() -> None:
    axes = annotation_confusion(cells({("unknown", "unknown"): 1, ("zz", "zz"): 1}), "truth", show=False)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["zz (1)", "unknown (1)"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["zz", "unknown"]


def test_no_cell_with_both_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="No cell has both"):
        annotation_confusion(cells({("a", None): 2, (None, "a"): 1}), "truth")


@pytest.mark.parametrize("n_labels", [3, 9, 30])
def test_labels_do_not_overlap(n_labels: int, annotated_cells: Callable[..., AnnData]) -> None:
    names = [f"a rather long name of cell type {i}, positive" for i in range(n_labels)]
    axes = annotation_confusion(annotated_cells(names, 600), "truth", show=False)
    axes.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.get_yticklabels()]
    assert all(upper.y0 >= lower.y1 for upper, lower in zip(boxes, boxes[1:], strict=False))
    # Slanted labels are one line height apart if their anchors are.
    heights = boxes[0].height
    anchors = [axes.transData.transform((i, 0))[0] for i in range(2)]
    assert (anchors[1] - anchors[0]) * np.sin(np.pi / 4) >= heights
    square = anchors[1] - anchors[0]
    assert all(text.get_window_extent().width <= square for text in axes.texts)
    inside = axes.figure.bbox
    assert all(box.x0 >= inside.x0 for box in boxes)
