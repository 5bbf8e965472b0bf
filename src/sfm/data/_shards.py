from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfm._docs import INPUT, doc_params
from sfm._settings import settings
from sfm._state import check_input_state
from sfm.data._cache import TokenCache
from sfm.data._categories import encode_columns, read_column
from sfm.data._encode import coverage_is_of_counts, gate_coverage, open_matrix
from sfm.data._filed import FiledCells
from sfm.data._open_files import OpenFiles
from sfm.data._sources import describe_file
from sfm.data._stream import in_background
from sfm.genes import align_genes
from sfm.tokenizers import TokenizedCells

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData

    from sfm.data._categories import Categories, NamedValues
    from sfm.tokenizers import Tokenizer

# Cells whose counts say which genes matter, where the vocabulary does not.
_PROBE_ROWS = 4096
# Rows that are passed over rather than read anew.
_FARTHEST = 256


@doc_params(input=INPUT)
class CellShards(FiledCells):
    """Cells of one or several files, one after the other, tokenized when they are read.

    Indexed as :class:`sfm.TokenizedCells` are: `shards[rows]` reads the counts of these cells, checks them and returns
    their tokens. Files may differ in their genes and in the order of these; each is matched to the vocabulary by itself.
    They are opened for reading only. Shards can be pickled; the copy opens the files again.

    Parameters
    ----------
    paths
        Files `.h5ad` or directories `.zarr`, in order; or one of them.
    tokenizer
        The tokenizer, with its vocabulary.
    {input}
    batch_key
        Column of `obs` with the biological batch.
    labels_key
        Column of `obs` with the labels; cells with a missing or empty one are unlabelled.

    Raises
    ------
    KeyError
        If a file lacks the layer or a column.
    ValueError
        If there is no file, a file has no cells, or too few of its genes are known.
    """

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path],
        tokenizer: Tokenizer,
        *,
        layer: str | None = None,
        use_raw: bool = False,
        gene_symbols: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
    ) -> None:
        self.paths = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
        if not self.paths:
            msg = "There are no files to read: paths is empty."
            raise ValueError(msg)
        self.tokenizer = tokenizer
        #: Which matrix and gene names of the files are read.
        self.where: dict[str, Any] = {"layer": layer, "use_raw": use_raw, "gene_symbols": gene_symbols}
        #: Columns of `obs` by the name that their numbers have in a minibatch.
        self.keys = {name: key for name, key in (("batch_index", batch_key), ("label_index", labels_key)) if key}
        self.sizes = []
        self._token_ids: list[np.ndarray] = []
        self._files = OpenFiles(self.paths, self.where)
        #: Numbers of each cell by name, such as those of its label and of its biological batch.
        self.columns: dict[str, np.ndarray] = {}
        #: What these numbers mean.
        self.categories: dict[str, Categories] = {}
        self._look_at_files()

    def _look_at_files(self) -> None:
        """Match the genes of each file, and number the categories of all together."""
        columns: dict[str, list[NamedValues]] = {name: [] for name in self.keys}
        for i, path in enumerate(self.paths):
            try:
                adata = self.adata(i)
                self._token_ids.append(self._matched(adata))
                for name, key in self.keys.items():
                    columns[name].append(read_column(adata.obs, key))
            except (KeyError, ValueError, TypeError, NotImplementedError) as error:
                error.add_note(f"In the file {str(path)!r}.")
                raise
            self.sizes.append(adata.n_obs)
        for name, key in self.keys.items():
            self.columns[name], self.categories[name] = encode_columns(columns[name], key)
        self._ends = np.cumsum([0, *self.sizes])

    def _matched(self, adata: AnnData) -> np.ndarray:
        """Token id of each gene of a file, after the coverage gate."""
        matrix, alignment = open_matrix(adata, self.tokenizer, **self.where)
        if coverage_is_of_counts(alignment, self.tokenizer):
            totals = np.asarray(matrix.head(_PROBE_ROWS).sum(axis=0)).ravel()
            alignment = align_genes(matrix.names, self.tokenizer.vocabulary, totals=totals)
        gate_coverage(alignment, matrix, self._name)
        return alignment.token_ids

    @property
    def _name(self) -> str:
        """What messages call the owner of the vocabulary."""
        return f"The tokenizer {self.tokenizer.name!r}"

    def close(self) -> None:
        """Close the files; they are opened again when they are needed."""
        self._files.close()

    def __len__(self) -> int:
        """Cells."""
        return int(self._ends[-1])

    def __getitem__(self, rows: np.ndarray | Sequence[int]) -> TokenizedCells:
        """Read and tokenize cells, given by their numbers, in that order."""
        numbers = np.asarray(rows, dtype=np.int64)
        if not numbers.size:
            return TokenizedCells(
                np.empty(0), np.zeros(1), values=self._no_values(), max_length=self.tokenizer.max_length
            )
        # Runs of rising rows that lie close together are read at once.
        breaks = np.flatnonzero((np.diff(numbers) <= 0) | (np.diff(numbers) > _FARTHEST)) + 1
        runs = [part for run in np.split(numbers, breaks) for part in self._by_file(run)]
        return TokenizedCells.concatenate([self._tokens(i, part) for i, run in runs for part in _parts(run)])

    def rows_of(self, rows: np.ndarray) -> tuple[TokenizedCells, np.ndarray]:
        """Read cells, and return them with their places among them.

        Parameters
        ----------
        rows
            Numbers of cells.
        """
        return self[rows], np.arange(len(rows))

    def _no_values(self) -> np.ndarray | None:
        return np.empty(0) if self.tokenizer.has_values else None

    def _by_file(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the number of a file and rows in it, for rising rows."""
        places = np.searchsorted(rows, self._ends)
        for i in range(len(self.sizes)):
            if places[i] < places[i + 1]:
                yield i, rows[places[i] : places[i + 1]] - self._ends[i]

    def _tokens(self, i: int, rows: np.ndarray) -> TokenizedCells:
        adata, matrix = self._files[i]
        first, last = int(rows[0]), int(rows[-1])
        counts = matrix.reader.read(first, last + 1)
        if counts.shape[0] > rows.size:
            counts = counts[rows - first]
        try:
            check_input_state(adata, matrix, counts, requires=self.tokenizer.requires)
        except ValueError as error:
            error.add_note(f"In the file {str(self.paths[i])!r}, rows {first} to {last}.")
            raise
        cells = self.tokenizer(counts, self._token_ids[i])
        context = self.tokenizer.context_tokens(adata.obs.iloc[rows]) if self.tokenizer.obs_columns else None
        return cells if context is None else cells.with_prefix(context, value=self.tokenizer.context_value)

    def adata(self, i: int) -> AnnData:
        """Open a file, with its matrices left on disk.

        Parameters
        ----------
        i
            Number of the file.
        """
        return self._files[i][0]

    @property
    def settings(self) -> dict[str, Any]:
        """How the files are read: the matrix, the gene names, and columns of `obs`."""
        return {**self.where, **self.keys}

    @property
    def sources(self) -> list[dict[str, Any]]:
        """Describe the files, so that a cache can tell whether it is of them."""
        return [describe_file(path, n_obs) for path, n_obs in zip(self.paths, self.sizes, strict=True)]

    def to_cache(self, path: str | Path, *, overwrite: bool = False) -> TokenCache:
        """Tokenize all cells into a cache on disk, some at a time.

        Parameters
        ----------
        path
            Directory to make.
        overwrite
            Replace a token cache that is there already.
        """
        return TokenCache.write(
            path,
            in_background(self._windows()),
            tokenizer=self.tokenizer,
            columns=self.columns,
            categories=self.categories,
            sources=self.sources,
            settings=self.settings,
            overwrite=overwrite,
        )

    def refuse_other_cache(self, cache: TokenCache) -> None:
        """Raise unless a cache is of these files, as they are now, and of these settings.

        Parameters
        ----------
        cache
            A token cache.

        Raises
        ------
        ValueError
            If it is not.
        """
        own = {"files": self.sources, "tokenizer": self.tokenizer.params(), "settings": self.settings}
        its = {"files": cache.sources, "tokenizer": cache.params(), "settings": cache.settings}
        others = [name for name in own if own[name] != its[name]]
        if others:
            msg = (
                f"The token cache {str(cache.path)!r} was written of other data: its {' and '.join(others)} are others, or "
                "have changed since. Pass another cache_dir=, or remove that directory."
            )
            raise ValueError(msg)

    def _windows(self) -> Iterator[TokenizedCells]:
        size = settings.window_size
        return (self[np.arange(first, min(first + size, len(self)))] for first in range(0, len(self), size))

    def __repr__(self) -> str:
        return f"CellShards with {len(self)} cells in {len(self.paths)} files, {self.tokenizer!r}"


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    """Cut rising rows so that not too many are read at once, should they be stored dense."""
    edges = np.arange(int(rows[0]), int(rows[-1]), settings.chunk_size)[1:]
    return np.split(rows, np.searchsorted(rows, edges))
