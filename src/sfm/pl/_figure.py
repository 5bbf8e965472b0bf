"""Figures in scanpy's way: where they are drawn, shown and saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLOT = """\
ax
    Axes to draw into, instead of a new figure.
show
    Show the figure. Default: `sc.settings.autoshow`, but not when drawing into `ax`.
save
    Save the figure. `True` or a string, which is appended to the name of the function and may end in `.png`, `.pdf` or
    `.svg`: in `sc.settings.figdir`. A :class:`pathlib.Path`, or a string that names a folder too: that file.
return_fig
    Return the figure, and do not show it."""

# Okabe and Ito (2008), distinct to all forms of colour vision, without the yellow, which is faint on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
KEPT = COLORS[0]
GRAY = REJECTED = "#808080"

_EXTENSIONS = (".png", ".pdf", ".svg")


def axes_for(ax: Axes | None, size: tuple[float, float]) -> tuple[Figure, Axes]:
    """Return the figure and the axes to draw into; a new figure has `size` in inches at a font size of 10."""
    if ax is not None:
        figure = ax.get_figure(root=True)
        if figure is None:
            msg = "ax= belongs to no figure. Pass axes from `plt.subplots()`."
            raise ValueError(msg)
        return figure, ax
    import matplotlib.pyplot as plt

    factor = font_size() / 10
    return plt.subplots(figsize=(size[0] * factor, size[1] * factor), layout="constrained")


def font_size() -> float:
    """Return matplotlib's basic font size in points."""
    import matplotlib as mpl

    return float(mpl.rcParams["font.size"])


def text_width(texts: list[str]) -> float:
    """Estimate the width of the longest text in inches, at a font size of 10."""
    return 0.082 * max(map(len, texts), default=0)


def finish(
    drawn: Axes,
    figure: Figure,
    *,
    name: str,
    ax: Axes | None,
    show: bool | None,
    save: bool | str | Path | None,
    return_fig: bool,
) -> Axes | Figure | None:
    """Save and show a figure as asked for, and return what the plot returns."""
    import matplotlib.pyplot as plt
    import scanpy as sc

    save = sc.settings.autosave if save is None else save
    if save:
        path = _path(name, save=save)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, bbox_inches="tight")
    if return_fig:
        return figure
    if show is None:
        show = sc.settings.autoshow and ax is None
    if show:
        plt.show()
    if save and ax is None:  # as scanpy does, so that notebooks do not show it once more
        plt.close(figure)
    return None if show else drawn


def _path(name: str, *, save: bool | str | Path) -> Path:
    import scanpy as sc

    if isinstance(save, Path) or (isinstance(save, str) and len(Path(save).parts) > 1):
        return Path(save).expanduser()
    suffix = save if isinstance(save, str) else ""
    extension = next((ending for ending in _EXTENSIONS if suffix.endswith(ending)), None)
    stem = suffix.removesuffix(extension or "")
    ending = extension or f".{sc.settings.file_format_figs}"
    return Path(sc.settings.figdir) / f"{name}{stem}{sc.settings.plot_suffix}{ending}"
