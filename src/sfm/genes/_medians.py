"""Medians of normalised expression over the cells that express a gene."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Counts per cell after normalisation.
TARGET_SUM = 1e4


def nonzero_medians(
    chunks: Iterable[tuple[slice, sparse.csr_matrix]], n_genes: int, column_of: np.ndarray
) -> np.ndarray:
    """Return per gene the median of its normalised counts over the cells that express it.

    A count is divided by the total of its cell and multiplied by 10,000, as in Geneformer (Theodoris et al., 2023,
    Nature 618, 616-624). The medians are exact; next to one chunk, 8 bytes are held per non-zero count.

    Parameters
    ----------
    chunks
        Row slices and counts, each of shape `(rows, n_vars)`, as from `CountMatrix.chunks`.
    n_genes
        Number of genes.
    column_of
        Gene of each column, shape `(n_vars,)`; -1 for columns that only enter the cell totals. Columns of the same
        gene are summed.

    Returns
    -------
    Medians, float64 of shape `(n_genes,)`; 1.0 for genes that no cell expresses.
    """
    columns = np.flatnonzero(column_of >= 0)
    parts = (np.ones(columns.size), (columns, column_of[columns]))
    genes_of_columns = sparse.csr_matrix(parts, shape=(len(column_of), n_genes))
    by_gene = [_by_gene(counts, genes_of_columns) for _, counts in chunks]
    medians = np.ones(n_genes)
    for gene in range(n_genes):
        found = [values[indptr[gene] : indptr[gene + 1]] for values, indptr in by_gene]
        values = found[0] if len(found) == 1 else np.concatenate(found or [medians[:0]])
        if values.size:
            medians[gene] = np.median(values)
    return medians


def _by_gene(counts: sparse.csr_matrix, genes_of_columns: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return the normalised non-zero counts of one chunk, gene after gene, and where each gene starts."""
    counts = counts.astype(np.float64)
    totals = np.asarray(counts.sum(axis=1)).ravel()
    totals[totals <= 0] = np.inf
    genes = (counts @ genes_of_columns).tocsc()  # (rows, genes)
    values = genes.data / totals[genes.indices] * TARGET_SUM
    positive = values > 0
    kept = np.concatenate([[0], np.cumsum(positive)])
    return values[positive], kept[genes.indptr]
