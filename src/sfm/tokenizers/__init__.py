"""Tokenizers: from the counts of a cell to a sequence of genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sfm.tokenizers._base import Tokenizer
from sfm.tokenizers._bins import BinTokenizer
from sfm.tokenizers._cells import TokenizedCell, TokenizedCells
from sfm.tokenizers._names import TOKENIZERS
from sfm.tokenizers._rank import RankTokenizer
from sfm.tokenizers._values import ValueTokenizer

if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "TOKENIZERS",
    "BinTokenizer",
    "RankTokenizer",
    "TokenizedCell",
    "TokenizedCells",
    "Tokenizer",
    "ValueTokenizer",
    "get_tokenizer",
]


def get_tokenizer(name: str) -> type[Tokenizer]:
    """Return the class of a tokenizer, by name.

    Parameters
    ----------
    name
        `"rank"`, `"bins"`, `"values"`, or a name that another package registered under the entry point group
        `sfm.tokenizers`.

    Raises
    ------
    ValueError
        If the name is not known.

    Examples
    --------
    >>> from sfm.tokenizers import get_tokenizer
    >>> get_tokenizer("rank").__name__
    'RankTokenizer'
    """
    tokenizer: Any = TOKENIZERS.load(name)
    return tokenizer  # type: ignore[no-any-return]
