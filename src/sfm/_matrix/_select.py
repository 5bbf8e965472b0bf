"""Choosing the count matrix of an AnnData and reading it as CSR row chunks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from scipy import sparse

from sfm._matrix._dask import is_dask, map_row_blocks
from sfm._matrix._readers import RowReader, SelectedRows, row_reader
from sfm._settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd
    from anndata import AnnData


T = TypeVar("T")

_FREE_ROWS = 65_536


@dataclass(frozen=True)
class CountMatrix:
    """One matrix of an AnnData with the names of its genes and the slots both come from.

    Of a view, `X` is the matrix of the whole; `rows` and `columns` say what the view selects, `None` for all.
    """

    X: Any
    names: np.ndarray
    slot: str
    names_slot: str
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        n_obs, n_vars = self.X.shape
        n_rows = n_obs if self.rows is None else self.rows.size
        return int(n_rows), int(n_vars if self.columns is None else self.columns.size)

    @cached_property
    def reader(self) -> RowReader:
        """What reads the rows; made at first use, since sorting a file by cell takes a while."""
        reader = row_reader(self.X, self.slot)
        if self.rows is None and self.columns is None:
            return reader
        rows = np.arange(self.X.shape[0]) if self.rows is None else self.rows
        return SelectedRows(reader, rows, self.columns)

    @property
    def is_free(self) -> bool:
        """Whether row slices cost nothing: CSR in memory."""
        return sparse.issparse(self.X) and self.X.format == "csr" and self.rows is None and self.columns is None

    def chunks(
        self, size: int | None = None, *, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[slice, sparse.csr_matrix]]:
        """Yield row slices of at most `size` rows and their CSR matrices, in order; in-memory CSR is not copied.

        Parameters
        ----------
        size
            Rows at a time. Default: `settings.chunk_size`, or many where slices cost nothing.
        start, stop
            Rows to begin with and to end before.
        """
        if is_dask(self.X):
            yield from self._computed(self._size(size), start, self.shape[0] if stop is None else stop)
        else:
            yield from self.mapped(_unchanged, size=size, start=start, stop=stop)

    def mapped(
        self, function: Callable[..., T], *shared: Any, size: int | None = None, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[slice, T]]:
        """Yield row slices and `function(rows as CSR, *shared)`, in order.

        Blocks of a dask array are computed where they are made and come as they are, so the first may begin before
        `start` and the last end after `stop`; other matrices are read as :meth:`chunks` does.
        """
        stop = self.shape[0] if stop is None else stop
        if is_dask(self.X):
            yield from map_row_blocks(self.X, self.slot, function, *shared, start=start, stop=stop)
            return
        size = self._size(size)
        for first in range(start, stop, size):
            rows = slice(first, min(first + size, stop))
            # The counts are given no name, or they would be held while the next are read.
            yield rows, function(self.reader.read(rows.start, rows.stop), *shared)

    def _size(self, size: int | None) -> int:
        if size is not None:
            return size
        return _FREE_ROWS if self.is_free else settings.chunk_size

    def _computed(self, size: int, start: int, stop: int) -> Iterator[tuple[slice, sparse.csr_matrix]]:
        """Yield the rows of a dask array block after block, each computed once."""
        for rows, block in map_row_blocks(self.X, self.slot, _unchanged, start=start, stop=stop):
            last = min(rows.stop, stop)
            for first in range(max(rows.start, start), last, size):
                part = slice(first, min(first + size, last))
                yield part, block[part.start - rows.start : part.stop - rows.start]

    @property
    def is_cheap_to_peek(self) -> bool:
        """Whether the first rows can be read without reading, or computing, much more."""
        is_stored = hasattr(self.X, "group")
        return not (is_dask(self.X) or (is_stored and self.X.format == "csc"))

    def head(self, n_rows: int) -> sparse.csr_matrix:
        """Return the first rows as CSR."""
        return self.reader.read(0, min(n_rows, self.shape[0]))


def _unchanged(block: sparse.csr_matrix) -> sparse.csr_matrix:
    return block


def select_matrix(
    adata: AnnData, *, layer: str | None = None, use_raw: bool = False, gene_symbols: str | None = None
) -> CountMatrix:
    """Return `X`, a layer or `raw` of `adata`, with its gene names; nothing is copied."""
    if layer is not None and use_raw:
        msg = f"Cannot use layer={layer!r} and use_raw=True together. Pass one of them."
        raise ValueError(msg)
    whole = _whole(adata, layer=layer, use_raw=use_raw)
    X, var, slot, var_slot = _slot(whole, layer=layer, use_raw=use_raw)
    if whole is not adata and not use_raw:
        var = adata.var
    names = _gene_names(var, gene_symbols, var_slot=var_slot)
    names_slot = f"{var_slot}_names" if gene_symbols is None else f"{var_slot}[{gene_symbols!r}]"
    matrix = CountMatrix(X=X, names=names, slot=slot, names_slot=names_slot)
    if whole is adata:
        return matrix
    columns = None if use_raw else _selected(adata._vidx, whole.n_vars)
    return replace(matrix, rows=_selected(adata._oidx, whole.n_obs), columns=columns)


def _whole(adata: AnnData, *, layer: str | None, use_raw: bool) -> AnnData:
    """Return what a view is a view of, so that its matrix is read in parts; dask arrays select rows themselves."""
    if not adata.is_view:
        return adata
    whole = adata._adata_ref
    if use_raw:
        X = None if whole.raw is None else whole.raw.X
    else:
        X = whole.X if layer is None else whole.layers.get(layer)
    return adata if is_dask(X) else whole


def _selected(index: Any, n: int) -> np.ndarray | None:
    """Return the rows or columns that the index of a view selects, `None` for all."""
    numbers = np.arange(n)[index]
    return None if np.array_equal(numbers, np.arange(n)) else numbers


def _slot(adata: AnnData, *, layer: str | None, use_raw: bool) -> tuple[Any, pd.DataFrame, str, str]:
    if use_raw:
        if adata.raw is None:
            msg = "use_raw=True, but adata.raw is None. Pass use_raw=False, or layer= with the name of a layer."
            raise ValueError(msg)
        return adata.raw.X, adata.raw.var, "adata.raw.X", "adata.raw.var"
    if layer is not None:
        if layer not in adata.layers:
            known = ", ".join(map(repr, adata.layers)) or "none"
            msg = f"Did not find adata.layers[{layer!r}]. Layers present: {known}. Pass layer=None to use adata.X."
            raise KeyError(msg)
        return adata.layers[layer], adata.var, f"adata.layers[{layer!r}]", "adata.var"
    if adata.X is None:
        known = ", ".join(map(repr, adata.layers)) or "none"
        msg = f"adata.X is None. Pass layer= with the name of the layer that holds counts (present: {known})."
        raise ValueError(msg)
    return adata.X, adata.var, "adata.X", "adata.var"


def _gene_names(var: pd.DataFrame, gene_symbols: str | None, *, var_slot: str) -> np.ndarray:
    if gene_symbols is None:
        return var.index.to_numpy().astype(str)
    if gene_symbols not in var.columns:
        known = ", ".join(map(repr, var.columns)) or "none"
        msg = f"Did not find {var_slot}[{gene_symbols!r}] (gene_symbols=). Columns present: {known}."
        raise KeyError(msg)
    column = var[gene_symbols].astype(object)
    return column.where(column.notna(), "").to_numpy().astype(str)
