"""Tokens of more cells than fit in memory, window by window."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from sfm._docs import INPUT, doc_params
from sfm._settings import settings
from sfm._state import check_input_state
from sfm.data._blocks import all_totals, tokenized_blocks
from sfm.data._encode import coverage_is_of_counts, gate_coverage, open_matrix
from sfm.genes import align_genes
from sfm.tokenizers import TokenizedCells

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

    from sfm._matrix import CountMatrix
    from sfm.genes import GeneAlignment
    from sfm.tokenizers import Tokenizer

T = TypeVar("T")

_PROBE_ROWS = 256


class CellStream:
    """Cells of an AnnData whose tokens are made window by window; made by :func:`stream_cells`.

    Parameters
    ----------
    adata
        Annotated data.
    matrix
        The matrix of `adata` to read.
    tokenizer
        The tokenizer.
    alignment
        The genes of the matrix, matched to the vocabulary of the tokenizer.
    """

    def __init__(self, adata: AnnData, matrix: CountMatrix, tokenizer: Tokenizer, alignment: GeneAlignment) -> None:
        self.adata = adata
        self.matrix = matrix
        self.tokenizer = tokenizer
        self.alignment = alignment
        self.window_size = matrix.shape[0] if tokenizer.depends_on_order else int(settings.window_size)

    @property
    def n_obs(self) -> int:
        """Cells."""
        return self.matrix.shape[0]

    def __len__(self) -> int:
        """Cells."""
        return self.n_obs

    def params(self) -> dict[str, Any]:
        """Provenance for `uns`, as :meth:`EncodedCells.params`."""
        return {
            "slot": self.matrix.slot,
            "input_state": self.tokenizer.requires,
            "gene_names": self.matrix.names_slot,
            **self.alignment.params(),
        }

    def windows(self, *, start: int = 0, stop: int | None = None) -> Iterator[tuple[slice, TokenizedCells]]:
        """Yield the rows and the tokens of each window, in obs order; the next is made while one is used.

        Parameters
        ----------
        start
            Row to begin with, a multiple of `window_size`.
        stop
            Row to end before, a multiple of `window_size` or the number of cells, which is the default.

        Raises
        ------
        ValueError
            If `start` or `stop` is none of these; or if values are not what the tokenizer requires.
        """
        stop = self.n_obs if stop is None else stop
        for name, bound in (("start", start), ("stop", stop)):
            if not 0 <= bound <= self.n_obs or (bound % self.window_size and bound != self.n_obs):
                msg = (
                    f"{name}={bound!r} does not begin a window: pass a multiple of {self.window_size} "
                    f"up to {self.n_obs}, or {self.n_obs}."
                )
                raise ValueError(msg)
        return in_background(self._windows(start, stop))

    def _windows(self, start: int, stop: int) -> Iterator[tuple[slice, TokenizedCells]]:
        """Cut and join tokenized blocks, which end where those of a dask array do, into windows."""
        parts: list[TokenizedCells] = []
        first, n_held = start, 0
        for rows, cells in self._blocks(start, stop):
            at = rows.start
            while at < rows.stop:
                end = min(rows.stop, first + self.window_size)
                parts.append(cells[at - rows.start : end - rows.start])
                n_held += end - at
                at = end
                if first + n_held in (first + self.window_size, stop):
                    yield slice(first, first + n_held), TokenizedCells.concatenate(parts)
                    parts, first, n_held = [], first + n_held, 0
            del cells  # or they would be held while the next are made

    def _blocks(self, start: int, stop: int) -> Iterator[tuple[slice, TokenizedCells]]:
        token_ids = self.alignment.token_ids
        blocks = tokenized_blocks(
            self.adata, self.matrix, self.tokenizer, token_ids, size=self.window_size, start=start, stop=stop
        )
        for rows, block in blocks:
            kept = slice(max(rows.start, start), min(rows.stop, stop))
            if block.cells is not None:
                yield kept, block.cells[kept.start - rows.start : kept.stop - rows.start]
            del block


@doc_params(input=INPUT)
def stream_cells(
    adata: AnnData,
    tokenizer: Tokenizer,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    gene_symbols: str | None = None,
    model_name: str,
) -> CellStream:
    """Prepare to tokenize the cells of `adata` window by window, after the gene-coverage gate; writes nothing.

    `adata` may be larger than memory: its matrix a dask array, or in a file. Counts are read when the windows are,
    apart from a look at the first cells; only for a vocabulary without expected expression, whose coverage is judged by
    the counts, all are read once before.

    Parameters
    ----------
    adata
        Annotated data matrix with raw counts.
    tokenizer
        The tokenizer, with its vocabulary.
    {input}
    model_name
        What messages call the owner of the vocabulary.

    Returns
    -------
    The stream.

    Raises
    ------
    TypeError
        If `adata` is no AnnData.
    KeyError
        If `layer` or `gene_symbols` names nothing.
    ValueError
        If `adata` is empty, the values are not what the tokenizer requires, or too few genes are known.
    """
    matrix, alignment = open_matrix(adata, tokenizer, layer=layer, use_raw=use_raw, gene_symbols=gene_symbols)
    if matrix.is_cheap_to_peek:
        check_input_state(adata, matrix, matrix.head(_PROBE_ROWS), requires=tokenizer.requires, start=0)
    if coverage_is_of_counts(alignment, tokenizer):
        totals = all_totals(adata, matrix, tokenizer)
        alignment = align_genes(matrix.names, tokenizer.vocabulary, totals=totals)
    gate_coverage(alignment, matrix, model_name)
    return CellStream(adata, matrix, tokenizer, alignment)


_END: Any = object()


def in_background(items: Iterator[T]) -> Iterator[T]:
    """Yield what an iterator yields, making the next item in a thread while one is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="sfm-stream") as pool:
        pending = pool.submit(next, items, _END)
        while (item := pending.result()) is not _END:
            pending = pool.submit(next, items, _END)
            yield item
