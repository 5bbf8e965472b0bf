"""Messages about the reference, whose matrix is chosen by `reference_kwargs` and not by the arguments of the query."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_FOR_BOTH = (
    "{0} holds for both sides unless `reference_kwargs` is given: pass `reference_kwargs={{}}` to read its {1}, or "
)
_LAYER = "`reference_kwargs={'layer': ...}`"
_VALUE = r"""('[^']*'|"[^"]*"|True)"""

# What messages say of the arguments that choose a matrix, and what it is for the reference. The first two kinds are of
# slots that the reference lacks, most often because only those of the query were thought of.
_REWRITTEN: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"Pass layer=None to use adata\.X\.", _FOR_BOTH.format("`layer`", "X") + f"{_LAYER}."),
    (r"Pass use_raw=False, or layer= with the name of a layer\.", _FOR_BOTH.format("`use_raw`", "X") + f"{_LAYER}."),
    (
        r" \(gene_symbols=\)\. (Columns present: .*)\.$",
        lambda found: (
            f". {found[1]}. {_FOR_BOTH.format('`gene_symbols`', 'var_names')}`reference_kwargs={{'gene_symbols': ...}}`."
        ),
    ),
    (r"\b([Pp]ass) layer= with", rf"\1 {_LAYER} with"),
    (r"\b([Pp]ass) gene_symbols= with", r"\1 `reference_kwargs={'gene_symbols': ...}` with"),
    (r"\b([Pp]ass) (layer|use_raw|gene_symbols)=" + _VALUE, r"\1 `reference_kwargs={'\2': \3}`"),
    (r"\b([Pp]ass) neither layer= nor use_raw=", r"\1 `reference_kwargs={}`"),
]


def of_reference(message: str) -> str:
    """Name the arguments that choose the matrix of the reference, where a message names those of the query."""
    for pattern, replacement in _REWRITTEN:
        message = re.sub(pattern, replacement, message)
    return message
