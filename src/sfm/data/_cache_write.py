"""Writing the arrays of a token cache, window by window."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from sfm.data import _cache_files as files

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from sfm.tokenizers import TokenizedCells, Tokenizer

_SHORT = np.iinfo(np.uint16).max


def write_tokens(
    folder: Path, windows: Iterable[TokenizedCells | tuple[slice, TokenizedCells]], tokenizer: Tokenizer
) -> dict[str, int]:
    """Append window after window; returns how many cells and tokens they had."""
    dtype = np.uint16 if tokenizer.vocabulary.size <= _SHORT + 1 else np.int32
    with ExitStack() as stack:

        def array(name: str, dtype: Any) -> files.GrowingArray:
            return stack.enter_context(files.GrowingArray(folder / name, dtype))

        input_ids, indptr = array(files.INPUT_IDS, dtype), array(files.INDPTR, np.int64)
        values = array(files.VALUES, np.float32) if tokenizer.has_values else None
        indptr.append(np.zeros(1, dtype=np.int64))
        for window in windows:
            cells = window[1] if isinstance(window, tuple) else window
            _refuse_other_tokens(cells, tokenizer)
            indptr.append(cells.indptr[1:] + input_ids.size)
            input_ids.append(cells.input_ids)
            if values is not None and cells.values is not None:
                values.append(cells.values)
        return {"n_cells": indptr.size - 1, "n_tokens": input_ids.size}


def _refuse_other_tokens(cells: TokenizedCells, tokenizer: Tokenizer) -> None:
    largest, size = int(cells.input_ids.max(initial=-1)), tokenizer.vocabulary.size
    if largest >= size or cells.max_length > tokenizer.max_length or (cells.values is not None) != tokenizer.has_values:
        values = "with" if cells.values is not None else "without"
        msg = (
            f"The cells have token ids up to {largest}, at most {cells.max_length} tokens, and are {values} values: they "
            f"are not of {tokenizer!r}. Pass the tokenizer that made them."
        )
        raise ValueError(msg)


def write_column(folder: Path, name: str, column: np.ndarray, *, n_cells: int) -> None:
    if column.shape != (n_cells,) or column.dtype.kind not in "iuf":
        msg = (
            f"columns[{name!r}] has shape {column.shape!r} and dtype {column.dtype.name!r}; it must hold one number for "
            f"each of the {n_cells} cells."
        )
        raise ValueError(msg)
    with files.GrowingArray(folder / files.COLUMNS / f"{name}.npy", column.dtype) as array:
        array.append(column)
