from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sfm._docs import doc_params
from sfm.annotation._labels import UNKNOWN
from sfm.pl._figure import PLOT, axes_for, finish, font_size, text_width
from sfm.pl._slots import given_labels, with_truth

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# Inches per label at a font size of 10, so that labels of one line stay apart.
_CELL = 0.34


@doc_params(plot=PLOT)
def annotation_confusion(
    adata: AnnData,
    labels_key: str,
    *,
    key: str = "sfm_label",
    normalize: bool = True,
    cmap: str | Colormap = "Blues",
    ax: Axes | None = None,
    show: bool | None = None,
    save: bool | str | Path | None = None,
    return_fig: bool = False,
) -> Axes | Figure | None:
    """Draw which true labels were given which labels.

    A row is a true label, with its number of cells, a column a label that :func:`sfm.tl.annotate` gave. Labels that
    occur on both sides come first, in the same order, so that right labels stand on the diagonal; other columns follow
    in the order of the rows in which most of their cells are, and rejected cells last. Cells without a true label are
    left out. The colour of a square is its share of the row.

    Parameters
    ----------
    adata
        Annotated data matrix.
    labels_key
        Column of `adata.obs` with the true labels.
    key
        Column of `adata.obs` with the labels that were given.
    normalize
        Write the share of the row into each square, in percent, instead of the number of cells.
    cmap
        Colours from no cell of the row to all of them.
    {plot}

    Returns
    -------
    `None` if shown, else the axes; the figure with `return_fig=True`.

    Raises
    ------
    KeyError
        If `labels_key` or `key` is not in `adata.obs`.
    ValueError
        If no cell has both labels.

    Examples
    --------
    >>> import sfm
    >>> adata = sfm.datasets.toy_cells()
    >>> adata.obs["sfm_label"] = adata.obs["cell_type"].shift(1, fill_value="type 0")
    >>> ax = sfm.pl.annotation_confusion(adata, "cell_type", show=False)
    >>> [text.get_text() for text in ax.get_xticklabels()]
    ['type 0', 'type 1', 'type 2']
    """
    counts = _counts(adata, labels_key, key)
    totals = counts.sum(axis=1)
    rows = [f"{label} ({n:,})" for label, n in totals.items()]
    width, height = _CELL * counts.shape[1], _CELL * counts.shape[0]
    size = (width + text_width(rows) + 1.3, height + 0.75 * text_width(list(counts.columns)) + 0.6)
    figure, axes = axes_for(ax, size)
    shares = counts.div(totals, axis=0).to_numpy()
    image = axes.imshow(shares, cmap=cmap, vmin=0, vmax=1, aspect="equal" if ax is None else "auto")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(counts.shape[1]), list(counts.columns), rotation=45, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0)
    axes.set_ylabel(labels_key, labelpad=8)
    axes.set_xlabel(key)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    shrink = min(1.0, 3 / height) if ax is None else 1.0
    bar = figure.colorbar(
        image, ax=axes, label="% of the true label", shrink=shrink, format=lambda x, _: f"{100 * x:.0f}"
    )
    bar.outline.set_visible(False)  # type: ignore[operator]
    texts = _percent(shares) if normalize else counts.astype(str).to_numpy()
    _write(axes, texts, shares, counts.to_numpy(), own_size=ax is None)
    return finish(axes, figure, name="annotation_confusion", ax=ax, show=show, save=save, return_fig=return_fig)


def _counts(adata: AnnData, labels_key: str, key: str) -> pd.DataFrame:
    """Numbers of cells, true labels in rows, in the order of the plot."""
    given = given_labels(adata, key)
    truth, known = with_truth(adata, labels_key)
    known &= given.notna().to_numpy()
    if not known.any():
        msg = f"No cell has both a label in adata.obs[{labels_key!r}] and one in adata.obs[{key!r}]."
        raise ValueError(msg)
    counts = pd.crosstab(truth[known].astype(object), given[known].astype(object))
    true_order = [label for label in truth.cat.categories if label in counts.index]
    given_order = [label for label in given.cat.categories if label in counts.columns]
    rows = [label for label in true_order if label in given_order]
    rows += [label for label in true_order if label not in given_order]
    counts = counts.loc[rows]
    others = [label for label in given_order if label not in rows]
    where = counts[others].to_numpy().argmax(axis=0) if others else np.array([], dtype=int)
    columns = [label for label in rows if label in given_order]
    columns += [others[i] for i in np.argsort(where, kind="stable")]
    counts = counts[sorted(columns, key=lambda label: label == UNKNOWN)]
    return counts.loc[sorted(rows, key=lambda label: label == UNKNOWN)]


def _percent(shares: np.ndarray) -> np.ndarray:
    """Shares as whole percents; `<1` for what would be rounded to nothing."""
    percent = np.rint(100 * shares).astype(int)
    return np.where(percent == 0, "<1", percent.astype(str))


def _write(axes: Axes, texts: np.ndarray, shares: np.ndarray, counts: np.ndarray, *, own_size: bool) -> None:
    """Write into the squares that hold cells, dark on light and light on dark."""
    n_rows, n_columns = counts.shape
    width, height = 72 * _CELL * font_size() / 10, 72 * _CELL * font_size() / 10
    if not own_size:
        box = axes.get_window_extent()
        points = 72 / axes.get_figure(root=True).dpi  # type: ignore[union-attr]
        width, height = box.width * points / n_columns, box.height * points / n_rows
    longest = max((len(text) for text in texts[counts > 0]), default=1)
    size = min(0.9 * font_size(), 0.6 * height, 1.4 * width / longest)
    for row, col in zip(*counts.nonzero(), strict=True):
        color = "white" if shares[row, col] > 0.55 else "black"
        axes.text(col, row, texts[row, col], ha="center", va="center", fontsize=size, color=color)
