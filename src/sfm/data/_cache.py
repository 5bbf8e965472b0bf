from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from sfm.data import _cache_files as files
from sfm.data._cache_write import write_column, write_tokens
from sfm.data._categories import Categories
from sfm.data._collate import gather
from sfm.data._filed import FiledCells
from sfm.genes import GeneVocabulary
from sfm.tokenizers import TokenizedCells, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class TokenCache(FiledCells):
    """Tokenized cells on disk, read through memory maps: nothing is in memory but what is asked for.

    A directory of numpy arrays: `input_ids.npy` (uint16 where the vocabulary fits, else int32) with the tokens of all
    cells end to end, `indptr.npy` (int64), `values.npy` (float32) for tokenizers with values, a column of `columns/`
    for each number that is known about every cell, and the tokenizer and its vocabulary in JSON. Cells are indexed as
    those of :class:`sfm.TokenizedCells`: `cache[rows]` has the tokens of these cells in memory. A cache can be pickled;
    the copy maps the same files.

    Parameters
    ----------
    path
        Directory that :meth:`write` made.

    Raises
    ------
    FileNotFoundError
        If there is no token cache at `path`.
    ValueError
        If the files are damaged, cut short, or those of a newer sfm.

    Examples
    --------
    >>> import tempfile, sfm
    >>> from sfm.data import TokenCache, encode_cells
    >>> adata = sfm.datasets.toy_cells(50)
    >>> tokenizer = sfm.datasets.toy_model().tokenizer
    >>> cells = encode_cells(adata, tokenizer, model_name="toy").cells
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = TokenCache.write(f"{folder}/tokens", [cells], tokenizer=tokenizer)
    ...     len(cache), cache[[3, 1]]
    (50, TokenizedCells with 2 cells, ... tokens, max_length=128)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._fields = files.read_description(self.path)
        try:
            n_cells, n_tokens = self._fields["n_cells"], self._fields["n_tokens"]
            #: Most tokens a cell may have.
            self.max_length = int(self._fields["max_length"])
            #: What the numbers in :attr:`columns` mean, for those that are categories.
            self.categories = {name: Categories.from_dict(entry) for name, entry in self._fields["categories"].items()}
            names, has_values = list(self._fields["columns"]), self._fields["has_values"]
            sizes = [source.get("n_obs", 0) for source in self.sources]
            self.sizes = sizes if sum(sizes) == n_cells else [n_cells]
        except (KeyError, TypeError, AttributeError) as error:
            msg = f"The description of the token cache {str(self.path)!r} is damaged ({error!r}). Write it again."
            raise ValueError(msg) from error
        #: Token ids of all cells, end to end.
        self.input_ids = files.open_array(self.path / files.INPUT_IDS, size=n_tokens, kinds="iu")
        #: Where the tokens of each cell begin, and where the last ends; shape `(n_cells + 1,)`.
        self.indptr = files.open_array(self.path / files.INDPTR, size=n_cells + 1, kinds="i")
        #: Value of each token, or `None`.
        self.values = files.open_array(self.path / files.VALUES, size=n_tokens, kinds="f") if has_values else None
        #: Numbers of each cell by name, such as those of its label and of its biological batch.
        self.columns = {
            name: files.open_array(self.path / files.COLUMNS / f"{name}.npy", size=n_cells, kinds="iuf")
            for name in names
        }
        if self.indptr[0] != 0 or self.indptr[-1] != n_tokens:
            msg = f"{str(self.path / files.INDPTR)!r} does not fit the {n_tokens} tokens. Write the token cache again."
            raise ValueError(msg)

    @classmethod
    def write(
        cls,
        path: str | Path,
        windows: Iterable[TokenizedCells | tuple[slice, TokenizedCells]],
        *,
        tokenizer: Tokenizer,
        columns: Mapping[str, np.ndarray] | None = None,
        categories: Mapping[str, Categories] | None = None,
        sources: Sequence[Mapping[str, Any]] = (),
        settings: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> Self:
        """Write cells, of which only one window is in memory at a time.

        The directory appears at once when it is complete. If writing stops with an error, nothing remains; if the
        process is killed, a hidden directory that ends in `.partial` does, which is never taken for a cache.

        Parameters
        ----------
        path
            Directory to make.
        windows
            Cells in their order, some at a time, alone or after their slice of rows.
        tokenizer
            The tokenizer that made them.
        columns
            Numbers of each cell by name, shape `(n_cells,)`.
        categories
            What the numbers of these columns mean.
        sources
            Where the cells are from: `path` and `n_obs` of each file, and whatever else is to be recorded.
        settings
            How they were read, to be recorded as well; plain values.
        overwrite
            Replace a token cache that is there already.

        Returns
        -------
        The cache, opened.

        Raises
        ------
        FileExistsError
            If there is something at `path` that may not be replaced.
        ValueError
            If tokens are not of this tokenizer, or a column has another length than there are cells.
        """
        path, columns = Path(path), dict(columns or {})
        with files.replaced_when_complete(path, overwrite=overwrite) as folder:
            sizes = write_tokens(folder, windows, tokenizer)
            (folder / files.COLUMNS).mkdir()
            for name, column in columns.items():
                write_column(folder, name, np.asarray(column), n_cells=sizes["n_cells"])
            tokenizer.vocabulary.save(folder / files.VOCABULARY)
            files.write_description(
                folder,
                {
                    **sizes,
                    "max_length": tokenizer.max_length,
                    "has_values": tokenizer.has_values,
                    "tokenizer": tokenizer.to_dict(),
                    "vocabulary_hash": tokenizer.vocabulary.content_hash,
                    "columns": list(columns),
                    "categories": {name: entry.to_dict() for name, entry in (categories or {}).items()},
                    "sources": [dict(source) for source in sources],
                    "settings": dict(settings or {}),
                },
            )
        return cls(path)

    def __len__(self) -> int:
        """Cells."""
        return self.indptr.size - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per cell, special tokens included; int64, shape `(n_cells,)`."""
        return np.diff(self.indptr)

    def __getitem__(self, rows: slice | Sequence[int] | np.ndarray) -> TokenizedCells:
        """Read the cells of a slice, integer array or boolean mask, in that order."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        numbers = _row_numbers(np.asarray(rows), len(self))
        input_ids, indptr, values = gather(self, numbers)
        return TokenizedCells(input_ids, indptr, values=values, max_length=self.max_length)

    def rows_of(self, rows: np.ndarray) -> tuple[Self, np.ndarray]:
        """Return the cache itself: minibatches are read from it without a copy of the cells in between.

        Parameters
        ----------
        rows
            Numbers of cells.
        """
        return self, rows

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer that made the tokens, with its vocabulary."""
        vocabulary = GeneVocabulary.load(self.path / files.VOCABULARY)
        if vocabulary.content_hash != self._fields["vocabulary_hash"]:
            msg = f"{str(self.path / files.VOCABULARY)!r} is not the vocabulary of the tokens. Write the cache again."
            raise ValueError(msg)
        return Tokenizer.from_dict(self._fields["tokenizer"], vocabulary)

    @property
    def sources(self) -> list[dict[str, Any]]:
        """Files that the cells are from, in order, as :meth:`write` was told."""
        return [dict(source) for source in self._fields["sources"]]

    @property
    def settings(self) -> dict[str, Any]:
        """How the cells were read, as :meth:`write` was told."""
        return dict(self._fields["settings"])

    def params(self) -> dict[str, Any]:
        """Provenance for `uns`: the tokenizer and the hash of its vocabulary."""
        return {**self._fields["tokenizer"], "vocabulary_hash": self._fields["vocabulary_hash"]}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    def __repr__(self) -> str:
        with_values = "" if self.values is None else " with values"
        size = f"{len(self)} cells, {self.input_ids.size} tokens"
        return f"TokenCache({str(self.path)!r}) with {size}{with_values}, max_length={self.max_length}"


def _row_numbers(rows: np.ndarray, n_cells: int) -> np.ndarray:
    if rows.dtype == bool and rows.shape == (n_cells,):
        return np.flatnonzero(rows)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        msg = (
            f"Cells are indexed by slices, by one-dimensional integers, or by {n_cells} booleans; not by "
            f"{rows.dtype.name!r} of shape {rows.shape!r}."
        )
        raise IndexError(msg)
    numbers = rows.astype(np.int64)
    wrong = (numbers < -n_cells) | (numbers >= n_cells)
    if wrong.any():
        msg = f"Cell {int(numbers[wrong][0])} is out of range: there are {n_cells} cells."
        raise IndexError(msg)
    return np.where(numbers < 0, numbers + n_cells, numbers)
