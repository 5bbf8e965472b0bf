"""The expressed genes of each cell by ascending token, for models that read genes as a set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sfm.tokenizers._ranking import _Genes
from sfm.tokenizers._rows import CountRows

if TYPE_CHECKING:
    from sfm.tokenizers._base import Tokenizer


@dataclass(frozen=True)
class ExpressedGenes:
    """Tokens (int32) and counts (float64) of all cells end to end; cell `i` owns `indptr[i]:indptr[i + 1]`."""

    tokens: np.ndarray
    counts: np.ndarray
    indptr: np.ndarray

    @property
    def cell(self) -> np.ndarray:
        """Cell of each gene."""
        return np.repeat(np.arange(self.indptr.size - 1), np.diff(self.indptr))

    @property
    def totals(self) -> np.ndarray:
        """Sum of the counts of each cell, float64."""
        return np.bincount(self.cell, weights=self.counts, minlength=self.indptr.size - 1)

    def highest(self, limit: int) -> ExpressedGenes:
        """Return at most `limit` genes of each cell, those with the highest counts; of equal counts the first."""
        if np.diff(self.indptr).max(initial=0) <= limit:
            return self
        cell = self.cell
        order = np.lexsort((self.tokens, -self.counts, cell))
        rank = np.arange(order.size) - self.indptr[cell]
        kept = np.sort(order[rank < limit])
        return ExpressedGenes(self.tokens[kept], self.counts[kept], _indptr(cell[kept], self.indptr.size - 1))


def expressed_genes(tokenizer: Tokenizer, counts: Any, gene_ids: np.ndarray) -> ExpressedGenes:
    """Return the genes with a count above zero, columns of the same gene summed.

    Parameters
    ----------
    tokenizer
        Whose vocabulary has the genes.
    counts, gene_ids
        As in :meth:`Tokenizer.__call__`.
    """
    gene_ids = np.asarray(gene_ids)
    rows, genes = CountRows.of(counts, gene_ids), _Genes.of(tokenizer, gene_ids)
    parts = [_of_run(rows, run, genes) for run in rows.runs()]
    lengths = np.concatenate([[0], *(np.diff(part.indptr) for part in parts)]).astype(np.int64)
    empty = np.zeros(0)
    return ExpressedGenes(
        np.concatenate([empty, *(part.tokens for part in parts)]).astype(np.int32),
        np.concatenate([empty, *(part.counts for part in parts)]),
        np.cumsum(lengths),
    )


def _of_run(rows: CountRows, run: slice, genes: _Genes) -> ExpressedGenes:
    summed = rows.rows(run).summed(genes.column_place, genes.tokens.size)
    kept = summed.data > 0
    cell = np.repeat(np.arange(summed.n_rows), np.diff(summed.indptr))[kept]
    return ExpressedGenes(genes.tokens[summed.indices[kept]], summed.data[kept], _indptr(cell, summed.n_rows))


def _indptr(cell: np.ndarray, n_cells: int) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.bincount(cell, minlength=n_cells))]).astype(np.int64)
