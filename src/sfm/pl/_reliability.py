from __future__ import annotations

from typing import TYPE_CHECKING

from sfm._docs import doc_params
from sfm.metrics import expected_calibration_error, reliability_curve
from sfm.pl._figure import GRAY, KEPT, PLOT, axes_for, finish
from sfm.pl._slots import judged

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@doc_params(plot=PLOT)
def reliability(
    adata: AnnData,
    labels_key: str,
    *,
    key: str = "sfm_label",
    n_bins: int = 15,
    ax: Axes | None = None,
    show: bool | None = None,
    save: bool | str | Path | None = None,
    return_fig: bool = False,
) -> Axes | Figure | None:
    """Draw the accuracy of labels against the confidence in them, and how often each confidence occurs.

    Calibrated labels lie on the diagonal; below it confidence is too high. The title gives the expected calibration
    error (Guo et al. 2017). Confidence is that in the most probable label, which is right if it equals the true one, be
    it the label that was given or not: cells may be rejected, outvoted or given a broader label. Where probabilities
    are not stored it is the label that was given. Cells without a true label are left out; those with one that the
    reference does not have count as wrong, with a warning.

    Parameters
    ----------
    adata
        Annotated data matrix.
    labels_key
        Column of `adata.obs` with the true labels.
    key
        Column of `adata.obs` with the labels that were given, beside which stands the confidence.
    n_bins
        Number of bins of confidence, of equal width, for the curve, the error and the histogram.
    {plot}

    Returns
    -------
    `None` if shown, else the axes of the curve, below which are those of the histogram; the figure with
    `return_fig=True`.

    Raises
    ------
    KeyError
        If `labels_key`, the labels that were given, or their confidence is not in `adata.obs`, or if cells were
        rejected and their probabilities are not in `adata.obsm`.
    ValueError
        If no cell has both labels, or a confidence is no probability.

    Examples
    --------
    >>> import sfm
    >>> adata = sfm.datasets.toy_cells()
    >>> adata.obs["sfm_label"] = "type 1"
    >>> adata.obs["sfm_label_confidence"] = 0.5
    >>> ax = sfm.pl.reliability(adata, "cell_type", show=False)
    >>> ax.get_ylabel()
    'accuracy'
    """
    cells = judged(adata, labels_key, [key], best=True)[key]
    error = expected_calibration_error(cells.confidence, cells.correct, n_bins=n_bins)
    curve = reliability_curve(cells.confidence, cells.correct, n_bins=n_bins)
    filled = curve[curve["n"] > 0]
    figure, axes = axes_for(ax, (4.2, 5.2))
    axes.plot([0, 1], [0, 1], color=GRAY, linestyle="--", linewidth=1, label="calibrated")
    axes.plot(filled["confidence"], filled["accuracy"], color=KEPT, marker="o", markersize=5, label=key, clip_on=False)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_ylabel("accuracy")
    axes.set_title(f"expected calibration error {error:.3f}", fontsize="medium")
    axes.legend(frameon=False, loc="upper left", fontsize="small")
    axes.tick_params(labelbottom=False)
    below = _axes_below(figure, axes)
    below.bar(curve["lower"], curve["n"], width=1 / n_bins, align="edge", color=KEPT, edgecolor="white", linewidth=0.5)
    below.set_xlabel("confidence")
    below.set_ylabel("cells")
    for part in (axes, below):
        part.grid(visible=False)
        part.spines[["top", "right"]].set_visible(False)
    return finish(axes, figure, name="reliability", ax=ax, show=show, save=save, return_fig=return_fig)


def _axes_below(figure: Figure, axes: Axes) -> Axes:
    """Give the lower part of the axes to others with the same x axis, so that both fit where the axes stood."""
    place = axes.get_subplotspec()
    if place is None:  # put on the figure by hand
        return axes.inset_axes((0, -0.36, 1, 0.3), sharex=axes)
    parts = place.subgridspec(2, 1, height_ratios=(3.2, 1), hspace=0.1)
    axes.set_subplotspec(parts[0])
    return figure.add_subplot(parts[1], sharex=axes)
