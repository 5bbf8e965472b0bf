"""Choosing the count matrix of an AnnData and reading it as CSR row chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from sfm._settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from anndata import AnnData


_FREE_ROWS = 65_536


@dataclass(frozen=True)
class CountMatrix:
    """One matrix of an AnnData with the names of its genes and the slots both come from."""

    X: Any
    names: np.ndarray
    slot: str
    names_slot: str

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        n_obs, n_vars = self.X.shape
        return int(n_obs), int(n_vars)

    def chunks(self, size: int | None = None) -> Iterator[tuple[slice, sparse.csr_matrix]]:
        """Yield row slices and their CSR matrices, in order; in-memory CSR is not copied."""
        X = _by_rows(self.X, self.slot)
        if size is None:  # slices of a CSR matrix in memory are free
            size = _FREE_ROWS if sparse.issparse(X) else settings.chunk_size
        for start in range(0, self.shape[0], size):
            rows = slice(start, min(start + size, self.shape[0]))
            yield rows, _rows_as_csr(X, rows)

    def head(self, n_rows: int) -> sparse.csr_matrix:
        """Return the first rows as CSR."""
        return _rows_as_csr(_by_rows(self.X, self.slot), slice(0, min(n_rows, self.shape[0])))


def select_matrix(
    adata: AnnData, *, layer: str | None = None, use_raw: bool = False, gene_symbols: str | None = None
) -> CountMatrix:
    """Return `X`, a layer or `raw` of `adata`, with its gene names; nothing is copied."""
    if layer is not None and use_raw:
        msg = f"Cannot use layer={layer!r} and use_raw=True together. Pass one of them."
        raise ValueError(msg)
    X, var, slot, var_slot = _slot(adata, layer=layer, use_raw=use_raw)
    names = _gene_names(var, gene_symbols, var_slot=var_slot)
    names_slot = f"{var_slot}_names" if gene_symbols is None else f"{var_slot}[{gene_symbols!r}]"
    return CountMatrix(X=X, names=names, slot=slot, names_slot=names_slot)


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


def _by_rows(X: Any, slot: str) -> Any:
    """Return something whose row slices are cheap; raise for arrays that are not supported."""
    if sparse.issparse(X):
        # One conversion of the whole beats slicing rows out of columns again and again.
        return X if X.format == "csr" else X.tocsr()
    if isinstance(X, np.ndarray):
        return X
    if getattr(X, "format", None) == "csc" and hasattr(X, "to_memory"):  # backed CSC
        return X.to_memory().tocsr()
    if type(X).__module__.partition(".")[0] in ("anndata", "h5py", "zarr"):  # backed CSR or dense
        return X
    msg = f"{slot} is a {type(X).__name__}. Supported: numpy, scipy CSR and CSC, and backed h5ad or zarr."
    raise NotImplementedError(msg)


def _rows_as_csr(X: Any, rows: slice) -> sparse.csr_matrix:
    if sparse.issparse(X):
        first, last = X.indptr[rows.start], X.indptr[rows.stop]
        # Filled in by hand: the constructor copies slices of larger arrays.
        block = sparse.csr_matrix((rows.stop - rows.start, X.shape[1]), dtype=X.dtype)
        block.data, block.indices = X.data[first:last], X.indices[first:last]
        block.indptr = X.indptr[rows.start : rows.stop + 1] - first
        return block
    return sparse.csr_matrix(X[rows])
