"""Genes that vary more than others that are expressed as much, from sums over cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from scipy import sparse

_N_BINS = 20


class GeneMoments:
    """Mean and variance of each gene, added up over parts of the cells.

    Parameters
    ----------
    n_genes
        Number of genes.
    """

    def __init__(self, n_genes: int) -> None:
        self.n_cells = 0
        self.sums = np.zeros(n_genes)
        self.squares = np.zeros(n_genes)

    def add(self, values: sparse.csr_matrix) -> None:
        """Add cells, `(cells, genes)`."""
        self.n_cells += values.shape[0]
        self.sums += np.bincount(values.indices, weights=values.data, minlength=len(self.sums))
        self.squares += np.bincount(
            values.indices, weights=values.data.astype(np.float64) ** 2, minlength=len(self.sums)
        )

    def mean(self) -> np.ndarray:
        """Mean of each gene."""
        return self.sums / max(1, self.n_cells)

    def variance(self) -> np.ndarray:
        """Variance of each gene."""
        return np.maximum(self.squares / max(1, self.n_cells) - self.mean() ** 2, 0)


def most_variable(moments: GeneMoments, n_genes: int) -> np.ndarray:
    """Return the genes with the highest dispersion for their mean (Satija et al. 2015), in increasing order.

    Dispersion is variance over mean, on a logarithmic scale, compared with genes in the same of 20 intervals of the mean.
    """
    mean, variance = moments.mean(), moments.variance()
    dispersion = np.full(len(mean), -np.inf)
    seen = np.flatnonzero((mean > 0) & (variance > 0))
    if len(seen):
        frame = pd.DataFrame({"dispersion": np.log(variance[seen] / mean[seen])})
        bins = frame.groupby(pd.cut(np.log1p(mean[seen]), _N_BINS, labels=False))["dispersion"]
        spread = bins.transform("std").fillna(0).replace(0, 1)
        dispersion[seen] = (frame["dispersion"] - bins.transform("mean")) / spread
    return np.sort(np.argsort(-dispersion, kind="stable")[:n_genes])
