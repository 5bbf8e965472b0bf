"""Counts of any array type as runs of CSR rows that fit the processor's cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterator

_RUN = 1 << 17
_DENSE_RUN = 1 << 20
_SAMPLES = 32


@dataclass(frozen=True)
class Rows:
    """Some rows as CSR arrays: counts in float32 or float64, columns in int32, indptr in int64 from 0."""

    data: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray

    @property
    def n_rows(self) -> int:
        return self.indptr.size - 1

    def summed(self, column_place: np.ndarray, n_places: int) -> Rows:
        """Return the rows with columns replaced by the places of their genes, sorted, equal ones summed."""
        place = column_place[self.indices].astype(np.int64)
        known = place >= 0
        counts = self.data[known].astype(np.float64)
        refuse_not_counts(counts)
        row = np.repeat(np.arange(self.n_rows), np.diff(self.indptr))
        keys = row[known] * n_places + place[known]
        order = _summing_order(keys, counts)
        keys, counts = keys[order], counts[order]
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        sums = np.add.reduceat(counts, starts) if starts.size else counts
        ends = np.searchsorted(keys[starts], np.arange(self.n_rows + 1) * n_places)
        return Rows(sums, (keys[starts] % max(n_places, 1)).astype(np.int32), ends.astype(np.int64))


def _summing_order(keys: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sort by key; fractions also by size, as the rounding of their sum depends on the order."""
    if np.array_equal(counts, np.floor(counts)):
        return np.argsort(keys, kind="stable")
    return np.lexsort((counts, keys))


class CountRows:
    """Counts whose columns are genes, read in runs of rows."""

    def __init__(self, counts: Any) -> None:
        self.counts = counts
        self.n_rows = int(counts.shape[0])
        self.is_sparse = sparse.issparse(counts)
        if self.is_sparse:
            self.indptr = counts.indptr.astype(np.int64)

    @classmethod
    def of(cls, counts: Any, gene_ids: np.ndarray) -> CountRows:
        """Check the input and make it readable by rows."""
        if not (sparse.issparse(counts) or isinstance(counts, np.ndarray)) or counts.ndim != 2:
            msg = (
                f"counts is a {type(counts).__name__}, not a two-dimensional numpy array or scipy sparse matrix. "
                "Convert it first, or call sfm.pp.tokenize, which reads other arrays in chunks."
            )
            raise ValueError(msg)
        if counts.dtype.kind not in "iufb":
            msg = f"counts has dtype {counts.dtype.name!r}; counts must be real numbers."
            raise ValueError(msg)
        if gene_ids.ndim != 1 or gene_ids.size != counts.shape[1] or gene_ids.dtype.kind not in "iu":
            msg = (
                f"gene_ids has shape {gene_ids.shape!r} and dtype {gene_ids.dtype.name!r}; it must hold one integer "
                f"for each of the {counts.shape[1]} columns of counts."
            )
            raise ValueError(msg)
        if not sparse.issparse(counts) or counts.format == "csr":
            return cls(counts)
        if counts.format != "csc":
            return cls(counts.tocsr())
        return cls(_known_as_csr(counts, gene_ids >= 0))

    @property
    def nnz(self) -> int:
        """Stored counts; an upper bound for dense ones."""
        return int(self.indptr[-1]) if self.is_sparse else int(self.counts.size)

    @property
    def longest(self) -> int:
        """Most stored counts in a row."""
        return int(np.diff(self.indptr).max(initial=0)) if self.is_sparse else int(self.counts.shape[1])

    def bound(self, rows: slice, longest: int) -> int:
        """Return no less than the number of expressed genes that rows have, counted up to `longest` in each."""
        if self.is_sparse:
            return int(np.minimum(np.diff(self.indptr[rows.start : rows.stop + 1]), longest).sum())
        return (rows.stop - rows.start) * min(int(self.counts.shape[1]), longest)

    def runs(self) -> Iterator[slice]:
        """Yield slices of rows that together fit the cache."""
        first = 0
        while first < self.n_rows:
            last = self._end_of_run(first)
            yield slice(first, last)
            first = last

    def _end_of_run(self, first: int) -> int:
        if not self.is_sparse:
            return min(first + max(_DENSE_RUN // max(self.counts.shape[1], 1), 1), self.n_rows)
        last = np.searchsorted(self.indptr, self.indptr[first] + _RUN, side="right") - 1
        return min(max(int(last), first + 1), self.n_rows)

    def rows(self, rows: slice) -> Rows:
        """Return a slice of rows."""
        if not self.is_sparse:
            block = sparse.csr_matrix(self.counts[rows])
            return _normal(block.data, block.indices, block.indptr.astype(np.int64))
        start, stop = self.indptr[rows.start], self.indptr[rows.stop]
        indptr = self.indptr[rows.start : rows.stop + 1] - start
        return _normal(self.counts.data[start:stop], self.counts.indices[start:stop], indptr)

    def samples(self, n_rows: int) -> Iterator[Rows]:
        """Yield about `n_rows` rows, spread over all."""
        if self.n_rows <= n_rows:
            yield self.rows(slice(0, self.n_rows))
            return
        size = max(n_rows // _SAMPLES, 1)
        for first in np.linspace(0, self.n_rows - size, _SAMPLES).astype(int).tolist():
            yield self.rows(slice(first, first + size))


def _normal(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray) -> Rows:
    data = data if data.dtype in (np.float32, np.float64) else data.astype(np.float64)
    return Rows(np.ascontiguousarray(data), np.ascontiguousarray(indices, dtype=np.int32), indptr)


def _known_as_csr(counts: Any, known: np.ndarray) -> Any:
    """Convert CSC in one go, without the data of unknown columns."""
    if known.all():
        return counts.tocsr()
    kept = np.repeat(known, np.diff(counts.indptr))
    lengths = np.where(known, np.diff(counts.indptr), 0)
    indptr = np.concatenate(([0], np.cumsum(lengths)))
    parts = (counts.data[kept], counts.indices[kept], indptr)
    return sparse.csc_matrix(parts, shape=counts.shape).tocsr()


def refuse_not_counts(counts: np.ndarray) -> None:
    """Raise if any count is negative, NaN or infinite."""
    wrong = counts[~((counts >= 0) & (counts < np.inf))]
    if wrong.size:
        msg = (
            f"counts holds {wrong[0].item()!r}; counts must be finite and not negative. Pass raw counts, for example "
            "`adata.layers['counts']`."
        )
        raise ValueError(msg)
