from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sfm._docs import doc_params
from sfm.annotation._labels import UNKNOWN
from sfm.pl._figure import GRAY, KEPT, PLOT, REJECTED, axes_for, finish, font_size, text_width
from sfm.pl._slots import column, given_confidence, given_labels, stored_colors

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# More points than that in one row are a blot.
_MAX_POINTS = 1000
# Fewer make no quartiles.
_MIN_BOX = 5
_ROW = 0.36
# Right edges of the columns of numbers, in font sizes from the axes.
_CELLS_AT, _REJECTED_AT = 4.5, 9.0


@doc_params(plot=PLOT)
def confidence(
    adata: AnnData,
    *,
    key: str = "sfm_label",
    groupby: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: bool | str | Path | None = None,
    return_fig: bool = False,
) -> Axes | Figure | None:
    """Draw how confident :func:`sfm.tl.annotate` was, for each label or group of cells.

    A box spans the middle half of the cells, with the median; its whiskers go from the 5th to the 95th percentile.
    Points are cells, evenly thinned out above 1000. Rejected cells are grey: the last row, or with `groupby` the lower
    half of each. The numbers on the right are cells, and how many of them were rejected. A dashed line is
    `min_confidence`, if the annotation had one. Cells without a group are left out.

    Parameters
    ----------
    adata
        Annotated data matrix.
    key
        Column of `adata.obs` with the labels, beside which stands the confidence.
    groupby
        Column of `adata.obs` with the groups. Default: the labels themselves, with rejected cells as the last group.
    {plot}

    Returns
    -------
    `None` if shown, else the axes; the figure with `return_fig=True`.

    Raises
    ------
    KeyError
        If the labels, their confidence, or `groupby` is not in `adata.obs`.

    Examples
    --------
    >>> import numpy as np
    >>> import sfm
    >>> adata = sfm.datasets.toy_cells()
    >>> adata.obs["sfm_label"] = adata.obs["cell_type"]
    >>> adata.obs["sfm_label_confidence"] = np.linspace(0.5, 1, adata.n_obs)
    >>> ax = sfm.pl.confidence(adata, show=False)
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['type 0', 'type 1', 'type 2']
    """
    labels, values = given_labels(adata, key), given_confidence(adata, key)
    rejected = (labels == UNKNOWN).to_numpy()
    groups = labels if groupby is None else column(adata, groupby, argument="groupby")
    names = [name for name in groups.cat.categories if (groups == name).any()]
    if groupby is None:
        names = sorted(names, key=lambda name: name == UNKNOWN)
    colors = stored_colors(adata, groupby or key)
    figure, axes = axes_for(ax, (text_width(names) + 5.0, _ROW * len(names) + 0.9))
    in_halves = groupby is not None and bool(rejected.any())
    for row, name in enumerate(names):
        inside = (groups == name).to_numpy() & np.isfinite(values)
        for part, shift in ((~rejected, -0.2), (rejected, 0.2)):
            color = REJECTED if part is rejected else colors.get(name, KEPT)
            center, height = (row + shift, 0.34) if in_halves else (row, 0.6)
            _draw_cells(axes, values[inside & part], center=center, height=height, color=color)
        _write_number(axes, row, _CELLS_AT, f"{inside.sum():,}")
        if in_halves:
            _write_number(axes, row, _REJECTED_AT, f"{(inside & rejected).sum():,}", color=REJECTED)
    _write_number(axes, -0.8, _CELLS_AT, "cells")
    if in_halves:
        _write_number(axes, -0.8, _REJECTED_AT, "rejected", color=REJECTED)
    threshold = adata.uns.get(key, {}).get("params", {}).get("min_confidence")
    if isinstance(threshold, int | float | np.number):
        axes.axvline(float(threshold), color=GRAY, linestyle="--", linewidth=1, zorder=0)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("confidence")
    axes.set_ylabel(groupby or key, labelpad=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    axes.spines[["top", "right"]].set_visible(False)
    return finish(axes, figure, name="confidence", ax=ax, show=show, save=save, return_fig=return_fig)


def _draw_cells(axes: Axes, values: np.ndarray, *, center: float, height: float, color: str) -> None:
    points = _thinned(values)
    # Neighbours apart, without chance: multiples of the golden ratio fill the height evenly.
    spread = (np.arange(points.size) * 0.6180339887) % 1 - 0.5
    few = values.size < _MIN_BOX
    axes.scatter(
        points,
        center + height * spread * (0.5 if few else 1),
        s=12 if few else 4,
        color=color,
        alpha=0.9 if few else 0.4,
        linewidths=0,
        rasterized=True,
    )
    if few:
        return
    line = {"color": "black", "linewidth": 1}
    axes.boxplot(
        values,
        positions=[center],
        orientation="horizontal",
        widths=height,
        whis=(5, 95),
        showfliers=False,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": color, "alpha": 0.5, "linewidth": 0.8},
        medianprops=line | {"linewidth": 1.8},
        whiskerprops=line,
        capprops=line,
        zorder=3,
    )


def _thinned(values: np.ndarray) -> np.ndarray:
    """At most so many of the values as can be told apart, evenly over their order."""
    values = np.sort(values)
    if values.size <= _MAX_POINTS:
        return values
    return values[np.linspace(0, values.size - 1, _MAX_POINTS).astype(int)]


def _write_number(axes: Axes, row: float, place: float, text: str, *, color: str = "black") -> None:
    """Write into a column that ends so many font sizes to the right of the axes."""
    axes.annotate(
        text,
        xy=(1, row),
        xycoords=axes.get_yaxis_transform(),
        xytext=(place * font_size(), 0),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize="small",
        color=color,
        annotation_clip=False,
    )
