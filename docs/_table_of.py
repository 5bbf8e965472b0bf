"""Sphinx extension: `.. table-of:: backbones` shows the data frame that `sfm.get.backbones()` returns,
and `.. table-of:: models` that of `sfm.list_models()`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from docutils.nodes import Node
    from sphinx.application import Sphinx


def cell(value: Any) -> str:
    """Write an entry as reStructuredText."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None or value is pd.NA or value != value else str(value)  # noqa: PLR0124 - NaN


def fold(frame: pd.DataFrame) -> pd.DataFrame:
    """Put what belongs to an objective into few columns, which a page has room for."""
    if "commercial_use" in frame.columns:
        return frame[["family", "size", "species", "context", "dims", "licence"]]
    if "model" not in frame.columns:
        return frame
    classes = [
        f":class:`~sfm.nn.{row.model}`" + (f", `{row.auto_class}`" if row.auto_class else "")
        for row in frame.itertuples()
    ]
    notes = [
        f"{row.description} Learns from {' and '.join(f'`{name}`' for name in row.labels.split(', '))}."
        + (f" Needs: {row.needs}." if row.needs else "")
        for row in frame.itertuples()
    ]
    return frame[[]].assign(classes=classes, description=notes)


def list_table(frame: pd.DataFrame) -> list[str]:
    """Write a data frame as a `list-table`, its index as the first column, names of classes as links."""
    frame = fold(frame)
    rows = [[name.replace("_", " ") for name in (frame.index.name, *frame.columns)]]
    for index, row in frame.iterrows():
        rows.append([f"`{index}`" if frame.index.name == "backbone" else str(index), *map(cell, row)])
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        lines += [f"   {'* -' if i == 0 else '  -'} {entry}" for i, entry in enumerate(row)]
    return lines


class TableOf(SphinxDirective):
    """The table of a function in `sfm.get`."""

    required_arguments = 1

    def run(self) -> list[Node]:
        """Call the function and parse what it gives."""
        import sfm

        name = self.arguments[0]
        frame = sfm.list_models() if name == "models" else getattr(sfm.get, name)()
        return self.parse_text_to_nodes("\n".join(list_table(frame)))


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("table-of", TableOf)
    return {"parallel_read_safe": True}
