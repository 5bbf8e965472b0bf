"""Rows of matrices that are stored by column (CSC), in bounded memory."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from sfm import _logging as logg

if TYPE_CHECKING:
    from collections.abc import Iterator

_BUCKET_BYTES = 1 << 25
_READ_VALUES = 1 << 21


class CSCRows:
    """Rows of a CSC matrix in memory: each run is one search and one pass over its own values in every column."""

    def __init__(self, X: Any) -> None:
        self.X = X

    def read(self, first: int, last: int) -> sparse.csr_matrix:
        """Return a run of rows."""
        X = self.X
        if not X.has_sorted_indices:
            return sparse.csr_matrix(X[first:last])
        from sfm._matrix._csc_kernels import rows_of_csc

        data, indices, indptr = rows_of_csc(X.data, X.indices, X.indptr, first, last)
        block = sparse.csr_matrix((last - first, X.shape[1]), dtype=X.dtype)
        block.data, block.indices, block.indptr = data, indices, indptr
        return block


class StoredCSCRows:
    """Rows of a CSC matrix in a file.

    A row is spread over the whole file. So the values are read once, by column, and written to temporary files by
    range of rows, each of which fits in memory; a small matrix is converted in memory. The files take the space of the
    uncompressed matrix and are removed with this object.
    """

    def __init__(self, X: Any, slot: str) -> None:
        self.shape = X.shape
        group = X.group
        self.indptr = group["indptr"][:].astype(np.int64)  # (columns + 1,)
        self.entry = np.dtype([("row", np.int32), ("column", np.int32), ("value", group["data"].dtype)])
        n_bytes = int(self.indptr[-1]) * self.entry.itemsize
        n_buckets = max(-(-n_bytes // _BUCKET_BYTES), 1)
        self.bucket_rows = max(-(-self.shape[0] // n_buckets), 1)
        self._open_bucket: tuple[int, sparse.csr_matrix] | None = None
        if self.bucket_rows >= self.shape[0]:
            self._open_bucket = 0, sparse.csr_matrix(X.to_memory())
            return
        self.directory = self._temporary_directory(slot, n_bytes)
        weakref.finalize(self, shutil.rmtree, self.directory, ignore_errors=True)
        logg.info(f"sorting {slot} by cell: it is stored by gene ({n_bytes / 1e9:.1f} GB of temporary files)")
        for entries in self._entries(group):
            self._append(entries)

    @staticmethod
    def _temporary_directory(slot: str, n_bytes: int) -> Path:
        where = tempfile.gettempdir()
        free = shutil.disk_usage(where).free
        if free < n_bytes:
            msg = (
                f"{slot} is stored by gene (CSC), and sorting it by cell takes {n_bytes / 1e9:.1f} GB of temporary files; "
                f"{where!r} has {free / 1e9:.1f} GB. Set TMPDIR to a larger disk, or store the matrix as CSR."
            )
            raise OSError(msg)
        return Path(tempfile.mkdtemp(prefix="sfm-rows-"))

    def _entries(self, group: Any) -> Iterator[np.ndarray]:
        """Yield rows, columns and values in the order of the file."""
        nnz = int(self.indptr[-1])
        for start in range(0, nnz, _READ_VALUES):
            stop = min(start + _READ_VALUES, nnz)
            entries = np.empty(stop - start, dtype=self.entry)
            entries["row"] = group["indices"][start:stop]
            entries["column"] = self._columns(start, stop)
            entries["value"] = group["data"][start:stop]
            yield entries

    def _columns(self, start: int, stop: int) -> np.ndarray:
        """Return the column of each stored value in a range."""
        first, last = np.searchsorted(self.indptr, [start, stop - 1], side="right") - 1
        ends = np.clip(self.indptr[first : last + 2], start, stop)
        return np.repeat(np.arange(first, last + 1, dtype=np.int32), np.diff(ends))

    def _append(self, entries: np.ndarray) -> None:
        bucket = entries["row"] // self.bucket_rows
        order = np.argsort(bucket, kind="stable")
        numbers, starts = np.unique(bucket[order], return_index=True)
        for number, part in zip(numbers.tolist(), np.split(entries[order], starts[1:]), strict=True):
            with self._path(number).open("ab") as file:
                part.tofile(file)

    def _path(self, number: int) -> Path:
        return self.directory / f"{number}.rows"

    def _bucket(self, number: int) -> sparse.csr_matrix:
        """Return the rows of one temporary file."""
        if self._open_bucket is None or self._open_bucket[0] != number:
            self._open_bucket = None  # two are never in memory
            path, first = self._path(number), number * self.bucket_rows
            entries = np.fromfile(path, dtype=self.entry) if path.exists() else np.empty(0, dtype=self.entry)
            shape = (min(self.bucket_rows, self.shape[0] - first), self.shape[1])
            places = (entries["row"] - first, entries["column"])
            self._open_bucket = number, sparse.coo_matrix((entries["value"], places), shape=shape).tocsr()
        return self._open_bucket[1]

    def read(self, first: int, last: int) -> sparse.csr_matrix:
        """Return a run of rows."""
        parts: list[sparse.csr_matrix] = []
        while first < last or not parts:
            number, offset = divmod(first, self.bucket_rows)
            stop = min(last, (number + 1) * self.bucket_rows)
            parts.append(self._bucket(number)[offset : offset + stop - first])
            first = stop
        return parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")
