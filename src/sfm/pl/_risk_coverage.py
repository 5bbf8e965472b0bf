from __future__ import annotations

from typing import TYPE_CHECKING

from sfm import metrics
from sfm._docs import doc_params
from sfm.pl._figure import COLORS, PLOT, axes_for, finish
from sfm.pl._slots import Judged, judged

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLES = ("-", "--", ":", "-.")
# Below this coverage single cells make the risk jump, up to 1; the axis need not show all of it.
_FEW = 0.05


@doc_params(plot=PLOT)
def risk_coverage(
    adata: AnnData,
    labels_key: str,
    *,
    key: str | Sequence[str] = "sfm_label",
    ax: Axes | None = None,
    show: bool | None = None,
    save: bool | str | Path | None = None,
    return_fig: bool = False,
) -> Axes | Figure | None:
    """Draw the share of wrong labels against the share of cells that are labelled, as the threshold on confidence falls.

    The lower a curve, the better confidence tells right labels from wrong ones; the legend gives the area under each
    (Geifman and El-Yaniv 2017). A label is right if it equals the true one; rejected cells are judged by their most
    probable label, and cells without a true label are left out. Cells with a true label that the reference does not have
    count as wrong, with a warning. Where cells were rejected, a dot stands at the share of cells that was kept, and the
    share of wrong labels among these. Risks that occur only among the most certain twentieth of the cells may lie above
    the axes.

    Parameters
    ----------
    adata
        Annotated data matrix.
    labels_key
        Column of `adata.obs` with the true labels.
    key
        Column of `adata.obs` with the labels that were given, beside which stands the confidence, or several to compare.
    {plot}

    Returns
    -------
    `None` if shown, else the axes; the figure with `return_fig=True`.

    Raises
    ------
    KeyError
        If `labels_key`, labels that were given, or their confidence is not in `adata.obs`, or if cells were rejected
        and their probabilities are not in `adata.obsm`.
    ValueError
        If no cell has both labels, or a confidence is no probability.

    Examples
    --------
    >>> import sfm
    >>> adata = sfm.datasets.toy_cells()
    >>> adata.obs["sfm_label"] = "type 1"
    >>> adata.obs["sfm_label_confidence"] = 0.5
    >>> ax = sfm.pl.risk_coverage(adata, "cell_type", show=False)
    >>> ax.get_xlabel()
    'coverage (share of cells labelled)'
    """
    keys = [key] if isinstance(key, str) else list(key)
    if not keys:
        msg = "key=[] names no labels. Pass a column of adata.obs, or several."
        raise ValueError(msg)
    cells = judged(adata, labels_key, keys)
    figure, axes = axes_for(ax, (4.8, 3.8))
    tops = [_draw(axes, name, judgement, i) for i, (name, judgement) in enumerate(cells.items())]
    if any(_rejects(judgement) for judgement in cells.values()):
        axes.plot([], [], color="black", marker="o", markersize=6, linestyle="none", label="kept by the annotation")
    axes.set_xlim(0, 1.01)
    axes.set_ylim(0, 1.08 * max(tops) or 0.05)
    axes.set_xlabel("coverage (share of cells labelled)")
    axes.set_ylabel("risk (share of wrong labels)")
    axes.legend(frameon=False, loc="best", fontsize="small")
    axes.grid(visible=False)
    axes.spines[["top", "right"]].set_visible(False)
    return finish(axes, figure, name="risk_coverage", ax=ax, show=show, save=save, return_fig=return_fig)


def _draw(axes: Axes, name: str, cells: Judged, number: int) -> float:
    """Draw one curve, and return how high the axis must reach for it."""
    curve = metrics.risk_coverage(cells.confidence, cells.correct)
    area = metrics.area_under_risk_coverage(cells.confidence, cells.correct)
    color, style = COLORS[number % len(COLORS)], _STYLES[number // len(COLORS) % len(_STYLES)]
    axes.plot(curve["coverage"], curve["risk"], color=color, linestyle=style, label=f"{name} (area {area:.3f})")
    top = float(curve["risk"][curve["coverage"] >= _FEW].max())
    if not _rejects(cells):
        return top
    risk = float(1 - cells.correct[cells.kept].mean())
    axes.plot(float(cells.kept.mean()), risk, color=color, marker="o", markersize=6, linestyle="none", clip_on=False)
    return max(top, risk)


def _rejects(cells: Judged) -> bool:
    return bool(cells.kept.any() and not cells.kept.all())
