"""Sphinx extension: read `Returns` as prose, because annotations hold the types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sphinx.ext.napoleon.docstring import NumpyDocstring

if TYPE_CHECKING:
    from sphinx.application import Sphinx


class ProseReturns(NumpyDocstring):
    """Numpy docstrings whose `Returns` section is a text, with one definition per slot that is written."""

    def _parse_returns_section(self, section: str) -> list[str]:
        lines = self._dedent(self._consume_to_next_section())
        return self._format_block(":returns: ", lines) + [""]


def process_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Replace the lines of a docstring by reStructuredText."""
    lines[:] = ProseReturns(lines, app.config, app, what, name, obj, options).lines()


def setup(app: Sphinx) -> dict[str, Any]:
    """Run before napoleon, which then finds nothing left to do."""
    app.connect("autodoc-process-docstring", process_docstring, priority=400)
    return {"parallel_read_safe": True}
