"""Reading runs of rows of any matrix as CSR."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy import sparse

from sfm._matrix._csc import CSCRows, StoredCSCRows
from sfm._matrix._dask import blocks_as_csr, is_dask
from sfm._matrix._stored import refuse_incomplete

if TYPE_CHECKING:
    Index = np.ndarray | slice

# Dense rows are turned into CSR in pieces of this size.
_DENSE_BYTES = 1 << 26

# Runs of wanted rows this close are read in one go.
_GAP = 4


class RowReader(Protocol):
    """Runs of rows of one matrix."""

    def read(self, first: int, last: int) -> sparse.csr_matrix:
        """Return the rows from `first` up to `last`."""
        ...


def row_reader(X: Any, slot: str) -> RowReader:
    """Return what reads rows of `X`; raise for arrays that are not supported, or not complete."""
    if is_dask(X):
        return DaskRows(X, slot)
    if sparse.issparse(X):
        if X.format == "csc":
            return CSCRows(X)
        return CSRRows(X if X.format == "csr" else X.tocsr())
    if isinstance(X, np.ndarray):
        return DenseRows(X)
    if getattr(X, "format", None) in ("csr", "csc") and hasattr(X, "group"):
        refuse_incomplete(X, slot)
        return StoredCSRRows(X) if X.format == "csr" else StoredCSCRows(X, slot)
    if type(X).__module__.partition(".")[0] in ("h5py", "zarr"):
        return DenseRows(X)
    msg = f"{slot} is a {type(X).__name__}. Supported: numpy, scipy CSR and CSC, dask, and backed h5ad or zarr."
    raise NotImplementedError(msg)


class CSRRows:
    """Rows of a CSR matrix in memory; nothing is copied."""

    def __init__(self, X: Any) -> None:
        self.X = X

    def read(self, first: int, last: int) -> sparse.csr_matrix:
        """Return a run of rows."""
        X = self.X
        start, stop = X.indptr[first], X.indptr[last]
        # Filled in by hand: the constructor copies slices of larger arrays.
        block = sparse.csr_matrix((last - first, X.shape[1]), dtype=X.dtype)
        block.data, block.indices = X.data[start:stop], X.indices[start:stop]
        block.indptr = X.indptr[first : last + 1] - start
        return block


class StoredCSRRows:
    """Rows of a CSR matrix in a file."""

    def __init__(self, X: Any) -> None:
        self.X = X

    def read(self, first: int, last: int) -> sparse.csr_matrix:
        """Return a run of rows."""
        return sparse.csr_matrix(self.X[first:last])


class DenseRows:
    """Rows of a dense matrix, in memory or in a file."""

    def __init__(self, X: Any) -> None:
        self.X = X
        fit = max(_DENSE_BYTES // max(X.shape[1] * X.dtype.itemsize, 1), 1)
        chunks = getattr(X, "shards", None) or getattr(X, "chunks", None) or (1,)
        self.n_rows = max(fit // chunks[0], 1) * chunks[0]  # whole chunks, which are read as a whole anyway

    def read(self, first: int, last: int) -> sparse.csr_matrix:
        """Return a run of rows."""
        bounds = [first, *range((first // self.n_rows + 1) * self.n_rows, last, self.n_rows), last]
        pairs = zip(bounds[:-1], bounds[1:], strict=True)
        parts = [sparse.csr_matrix(np.asarray(self.X[start:stop])) for start, stop in pairs]
        return parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")


class DaskRows:
    """Rows of a dask array, computed now."""

    def __init__(self, X: Any, slot: str) -> None:
        self.X, self.slot = X, slot

    def read(self, first: int, last: int) -> sparse.csr_matrix:
        """Return a run of rows."""
        from dask.base import compute

        rows = self.X[first:last].to_delayed()  # (blocks of rows, blocks of columns)
        parts = [blocks_as_csr(columns, self.slot) for columns in compute(*map(list, rows))]
        return parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")


class SelectedRows:
    """Rows and columns that a view selects of a larger matrix; the view itself is never made.

    Parameters
    ----------
    reader
        Reads the larger matrix.
    rows, columns
        What is selected, in order; columns may be `None` for all.
    """

    def __init__(self, reader: RowReader, rows: np.ndarray, columns: Index | None) -> None:
        self.reader, self.rows, self.columns = reader, rows, columns

    def read(self, first: int, last: int) -> sparse.csr_matrix:
        """Return a run of the selected rows."""
        wanted, place = np.unique(self.rows[first:last], return_inverse=True)
        ends = np.flatnonzero(np.diff(wanted) > _GAP) + 1
        parts = [self._run(run) for run in np.split(wanted, ends)]
        block = parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")
        if not np.array_equal(place, np.arange(wanted.size)):
            block = block[place]
        return block if self.columns is None else sparse.csr_matrix(block[:, self.columns])

    def _run(self, rows: np.ndarray) -> sparse.csr_matrix:
        if rows.size == 0:
            return self.reader.read(0, 0)
        block = self.reader.read(int(rows[0]), int(rows[-1]) + 1)
        return block if block.shape[0] == rows.size else block[rows - rows[0]]
