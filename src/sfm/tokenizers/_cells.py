from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from scipy import sparse

from sfm.tokenizers._obsm import check_positions, check_values, positions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True, eq=False)
class TokenizedCell:
    """One tokenized cell, without padding; implements :class:`sfm.TokenizedCellProtocol`.

    Parameters
    ----------
    input_ids
        Token ids, int64, shape `(n_tokens,)`.
    attention_mask
        Ones, int64, shape `(n_tokens,)`.
    values
        Expression value of each token, float32, shape `(n_tokens,)`, or `None`.
    metadata
        Whatever else is known about the cell.
    """

    input_ids: Tensor
    attention_mask: Tensor
    values: Tensor | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class TokenizedCells:
    """Tokenized cells of different lengths, stored end to end without padding.

    Behaves like a sequence: `len(cells)`, `cells[i]` for one :class:`TokenizedCell`, `cells[rows]` for another
    `TokenizedCells` (slice, integer array or boolean mask).

    Parameters
    ----------
    input_ids
        Token ids of all cells, one after the other, int32, shape `(nnz,)`.
    indptr
        Cell `i` owns `input_ids[indptr[i]:indptr[i + 1]]`; int64, shape `(n_cells + 1,)`.
    values
        Expression value of each token, float32, shape `(nnz,)`, or `None`.
    max_length
        Most tokens a cell may have; the width of the matrices of :meth:`to_obsm`.
    metadata
        Whatever else is known about all cells.

    Raises
    ------
    ValueError
        If the arrays do not fit together, or a cell is longer than `max_length`.

    Examples
    --------
    >>> import numpy as np
    >>> from sfm.tokenizers import TokenizedCells
    >>> cells = TokenizedCells(np.array([5, 9, 7]), np.array([0, 2, 3]), max_length=4)
    >>> cells
    TokenizedCells with 2 cells, 3 tokens, max_length=4
    >>> cells[[1, 0]].input_ids
    array([7, 5, 9], dtype=int32)
    """

    def __init__(
        self,
        input_ids: np.ndarray,
        indptr: np.ndarray,
        *,
        values: np.ndarray | None = None,
        max_length: int,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self.input_ids = np.asarray(input_ids, dtype=np.int32)
        self.indptr = np.asarray(indptr, dtype=np.int64)
        self.values = None if values is None else np.asarray(values, dtype=np.float32)
        self.max_length = int(max_length)
        self.metadata = dict(metadata or {})
        self._check()

    def _check(self) -> None:
        if self.input_ids.ndim != 1 or self.indptr.ndim != 1 or self.indptr.size == 0:
            msg = (
                f"input_ids has shape {self.input_ids.shape!r} and indptr {self.indptr.shape!r}; both must be "
                "one-dimensional, and indptr one longer than the number of cells."
            )
            raise ValueError(msg)
        lengths = self.lengths
        if self.indptr[0] != 0 or self.indptr[-1] != self.input_ids.size or lengths.min(initial=0) < 0:
            msg = (
                f"indptr runs from {int(self.indptr[0])} to {int(self.indptr[-1])}; it must rise from 0 to the number "
                f"of tokens, {self.input_ids.size}."
            )
            raise ValueError(msg)
        if lengths.max(initial=0) > self.max_length:
            msg = f"A cell has {int(lengths.max())} tokens, more than max_length={self.max_length!r}. Raise max_length."
            raise ValueError(msg)
        if self.values is not None and self.values.shape != self.input_ids.shape:
            msg = f"values has shape {self.values.shape!r}, input_ids {self.input_ids.shape!r}; they must be equal."
            raise ValueError(msg)

    def __len__(self) -> int:
        """Cells."""
        return self.indptr.size - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per cell, special tokens included; int64, shape `(n_cells,)`."""
        return np.diff(self.indptr)

    @overload
    def __getitem__(self, rows: int | np.integer) -> TokenizedCell: ...
    @overload
    def __getitem__(self, rows: slice | Sequence[int] | Sequence[bool] | np.ndarray) -> TokenizedCells: ...
    def __getitem__(self, rows: Any) -> TokenizedCell | TokenizedCells:
        """Return one cell, or the cells of a slice, integer array or boolean mask, in that order."""
        if isinstance(rows, slice):
            first, last, step = rows.indices(len(self))
            if step == 1:
                return self._run(first, max(first, last))
            return self._gather(np.arange(first, last, step))
        if np.ndim(rows) == 0:
            return self._cell(operator.index(rows))
        return self._gather(self._row_numbers(np.asarray(rows)))

    def _cell(self, row: int) -> TokenizedCell:
        import torch

        if not -len(self) <= row < len(self):
            msg = f"Cell {row!r} is out of range: there are {len(self)} cells."
            raise IndexError(msg)
        row %= len(self)
        span = slice(self.indptr[row], self.indptr[row + 1])
        input_ids = torch.from_numpy(self.input_ids[span].astype(np.int64))
        values = None if self.values is None else torch.from_numpy(self.values[span].copy())
        return TokenizedCell(input_ids, torch.ones_like(input_ids), values, dict(self.metadata))

    def _row_numbers(self, rows: np.ndarray) -> np.ndarray:
        if rows.ndim != 1:
            msg = f"Cells are indexed by one-dimensional arrays, not one of shape {rows.shape!r}."
            raise IndexError(msg)
        if rows.dtype == bool:
            if rows.size != len(self):
                msg = f"A boolean mask of {rows.size} values does not fit {len(self)} cells."
                raise IndexError(msg)
            return np.flatnonzero(rows)
        if rows.size == 0:
            return np.empty(0, dtype=np.int64)
        if rows.dtype.kind not in "iu":
            msg = f"Cells are indexed by integers or booleans, not {rows.dtype.name!r}."
            raise IndexError(msg)
        numbers = rows.astype(np.int64)
        wrong = (numbers < -len(self)) | (numbers >= len(self))
        if wrong.any():
            msg = f"Cell {int(numbers[wrong][0])} is out of range: there are {len(self)} cells."
            raise IndexError(msg)
        return np.where(numbers < 0, numbers + len(self), numbers)

    def _run(self, first: int, last: int) -> TokenizedCells:
        start, stop = self.indptr[first], self.indptr[last]
        return self._like(
            self.input_ids[start:stop],
            self.indptr[first : last + 1] - start,
            None if self.values is None else self.values[start:stop],
        )

    def _gather(self, rows: np.ndarray) -> TokenizedCells:
        lengths = self.lengths[rows]
        indptr = np.concatenate(([0], np.cumsum(lengths)))
        source = positions(indptr) + np.repeat(self.indptr[rows], lengths)
        return self._like(self.input_ids[source], indptr, None if self.values is None else self.values[source])

    def _like(self, input_ids: np.ndarray, indptr: np.ndarray, values: np.ndarray | None) -> TokenizedCells:
        return TokenizedCells(input_ids, indptr, values=values, max_length=self.max_length, metadata=self.metadata)

    def to_obsm(self) -> tuple[sparse.csr_matrix, sparse.csr_matrix | None]:
        """Return the tokens, and the values where there are some, as matrices for `adata.obsm`.

        Returns
        -------
        Token ids, int32, and values, float32 or `None`; CSR of shape `(n_cells, max_length)`. The column is the
        position in the cell's sequence; padding is not stored. The data are shared with this object, not copied.
        """
        shape = (len(self), self.max_length)
        columns = positions(self.indptr)
        tokens = sparse.csr_matrix((self.input_ids, columns, self.indptr), shape=shape, copy=False)
        if self.values is None:
            return tokens, None
        return tokens, sparse.csr_matrix((self.values, tokens.indices, tokens.indptr), shape=shape, copy=False)

    def with_prefix(self, tokens: np.ndarray, *, value: float = 0.0) -> TokenizedCells:
        """Return the cells with further tokens in front.

        Parameters
        ----------
        tokens
            Token ids, integers of shape `(n_cells, n_tokens)`.
        value
            Their value, where tokens have values.
        """
        width = tokens.shape[1]
        starts = np.repeat(self.indptr[:-1], width)
        input_ids = np.insert(self.input_ids, starts, np.asarray(tokens, dtype=np.int32).ravel())
        values = None if self.values is None else np.insert(self.values, starts, np.float32(value))
        return self._like(input_ids, self.indptr + width * np.arange(self.indptr.size), values)

    @classmethod
    def from_obsm(cls, tokens: Any, values: Any | None = None) -> TokenizedCells:
        """Read what :meth:`to_obsm` made.

        Parameters
        ----------
        tokens
            CSR of token ids, shape `(n_cells, max_length)`.
        values
            CSR of values with the same positions, or `None`.

        Raises
        ------
        ValueError
            If `tokens` is not CSR, if the positions of a cell are not 0, 1, 2, ... in order, or if `values` has
            other positions.
        """
        check_positions(tokens)
        if values is not None:
            check_values(tokens, values)
        data = None if values is None else values.data
        return cls(tokens.data, tokens.indptr, values=data, max_length=tokens.shape[1])

    @classmethod
    def concatenate(cls, parts: Sequence[TokenizedCells]) -> TokenizedCells:
        """Put cells one after the other.

        Parameters
        ----------
        parts
            At least one; all with or all without values. Entries of the metadata that all share are kept.

        Raises
        ------
        ValueError
            If there are no parts, or only some have values.
        """
        if len(parts) == 0:
            msg = "Nothing to concatenate: parts is empty."
            raise ValueError(msg)
        if len(parts) == 1:
            return parts[0]
        values = [part.values for part in parts if part.values is not None]
        if values and len(values) != len(parts):
            msg = f"Only {len(values)} of {len(parts)} parts have values. Tokenize all with the same tokenizer."
            raise ValueError(msg)
        starts = np.cumsum([0, *(part.input_ids.size for part in parts)])
        shifted = [part.indptr[1:] + start for part, start in zip(parts, starts, strict=False)]
        first = parts[0].metadata.items()
        return cls(
            np.concatenate([part.input_ids for part in parts]),
            np.concatenate([[0], *shifted]),
            values=np.concatenate(values) if values else None,
            max_length=max(part.max_length for part in parts),
            metadata={k: v for k, v in first if all(k in p.metadata and p.metadata[k] == v for p in parts)},
        )

    def __repr__(self) -> str:
        with_values = "" if self.values is None else " with values"
        size = f"{len(self)} cells, {self.input_ids.size} tokens"
        return f"TokenizedCells with {size}{with_values}, max_length={self.max_length}"
