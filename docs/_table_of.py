"""Sphinx extension: `.. table-of:: backbones` shows the data frame that `sfm.get.backbones()` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    import pandas as pd
    from docutils.nodes import Node
    from sphinx.application import Sphinx


def cell(value: Any) -> str:
    """Write an entry as reStructuredText."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return {None: "", "": ""}.get(value, str(value))


def list_table(frame: pd.DataFrame) -> list[str]:
    """Write a data frame as a `list-table`, its index as the first column, names of classes as links."""
    names = [frame.index.name, *frame.columns]
    rows = [[name.replace("_", " ") for name in names]]
    for index, row in frame.iterrows():
        entries = [cell(value) for value in row]
        rows.append([f"`{index}`", *entries])
    if "model" in frame.columns:
        at = names.index("model")
        rows[1:] = [[*row[:at], f":class:`~sfm.nn.{row[at]}`", *row[at + 1 :]] for row in rows[1:]]
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

        frame = getattr(sfm.get, self.arguments[0])()
        return self.parse_text_to_nodes("\n".join(list_table(frame)))


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("table-of", TableOf)
    return {"parallel_read_safe": True}
