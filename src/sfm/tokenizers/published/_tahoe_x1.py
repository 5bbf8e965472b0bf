from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sfm.tokenizers.published._quantiles import bucketized
from sfm.tokenizers.published._sampled import SampledBinTokenizer, genes_of, loader_generator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scipy import sparse

    from sfm.genes import GeneVocabulary
    from sfm.tokenizers.published._sampled import CellTokens


class TahoeX1Tokenizer(SampledBinTokenizer):
    """Genes with quantile bins of their counts, as Tahoe-x1 reads them (Gandhi et al. 2025).

    The quantiles are those of `torch.quantile` in single precision, and a count that several edges equal gets the lowest
    bin. Where a cell has too many genes, a sample is kept, and which genes these are follows from the cell's genes and
    bins. With `reference=True` stored zeros are tokens, several columns of one gene are several tokens, and the sample is
    drawn with torch's generator; all cells must then come in one call.

    Parameters
    ----------
    vocabulary
        The genes and their token ids.
    max_length
        As for :class:`SampledBinTokenizer`.
    right_binning
        Whether a count that equals an edge is in the bin above it.
    n_unbinned
        With `reference=True`, how many genes of each cell keep their counts and are never cut: one in models that were
        made to read a drug there, and read no drug.
    options
        Further arguments of :class:`SampledBinTokenizer`.
    """

    name: ClassVar[str] = "tahoe_x1"

    def __init__(
        self,
        vocabulary: GeneVocabulary,
        *,
        max_length: int = 2048,
        right_binning: bool = False,
        n_unbinned: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(vocabulary, max_length=max_length, **options)
        self.right_binning = bool(right_binning)
        self.n_unbinned = int(n_unbinned)

    def cell_values(self, counts: np.ndarray, indptr: np.ndarray) -> np.ndarray:
        """Return the bins, see :meth:`Tokenizer.cell_values`."""
        return bucketized(counts, indptr, self.n_bins, right=self.right_binning)

    def reference_cells(self, counts: sparse.csr_matrix, gene_ids: np.ndarray) -> Iterator[CellTokens]:
        """Yield all stored genes in their order."""
        import torch

        permutations = loader_generator(self.seed)
        first = self.n_unbinned
        for row in range(counts.shape[0]):
            ids, values = genes_of(counts, gene_ids, row)
            values[first:] = self._bins_as_stored(values[first:])
            if values.size > self.n_kept:
                order = torch.randperm(values.size - first, generator=permutations)[: self.n_kept - first].numpy()
                kept = np.concatenate([np.arange(min(first, values.size)), order + first])
                ids, values = ids[kept], values[kept]
            yield ids, values

    def _bins_as_stored(self, values: np.ndarray) -> np.ndarray:
        """Bin counts in any order; zeros are in the lowest bin and have no part in the quantiles."""
        order = np.argsort(-values, kind="stable")
        positive = order[: np.count_nonzero(values > 0)]
        bins = np.full(values.size, 0 if self.right_binning else 1, dtype=np.float32)
        bins[positive] = self.cell_values(values[positive], np.array([0, positive.size]))
        return bins

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, ready for JSON."""
        settings = {**super().to_dict(), "right_binning": self.right_binning}
        return {**settings, "n_unbinned": self.n_unbinned} if self.reference else settings
