from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sfm.tokenizers._value_kernels import quantile_bins
from sfm.tokenizers.published._sampled import SampledBinTokenizer, genes_of, loader_generator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scipy import sparse

    from sfm.genes import GeneVocabulary
    from sfm.tokenizers.published._sampled import CellTokens


class ScGPTTokenizer(SampledBinTokenizer):
    """Genes with quantile bins of their counts, as scGPT reads them (Cui et al. 2024, Nature Methods 21, 1470-1480).

    The bins are those of :class:`~sfm.tokenizers.BinTokenizer`: a count that several edges equal gets the middle one of
    the bins that scGPT draws from at random. Where a cell has too many genes, a sample is kept, and which genes these are
    follows from the cell's genes and bins. With `reference=True` both are drawn as scGPT does it, with numpy's and
    torch's generators; all cells must then come in one call.

    Parameters
    ----------
    vocabulary
        The genes and their token ids.
    cls_value
        Value of the token `<cls>`: -2 when scGPT embeds cells, 0 when it is fine-tuned.
    options
        Further arguments of :class:`SampledBinTokenizer`.
    """

    name: ClassVar[str] = "scgpt"

    def __init__(self, vocabulary: GeneVocabulary, *, cls_value: float = -2.0, **options: Any) -> None:
        super().__init__(vocabulary, **options)
        self.cls_value = float(cls_value)

    def cell_values(self, counts: np.ndarray, indptr: np.ndarray) -> np.ndarray:
        """Return the bins, see :meth:`Tokenizer.cell_values`."""
        bins: np.ndarray = quantile_bins(counts, indptr, self.n_bins)
        return bins

    def reference_cells(self, counts: sparse.csr_matrix, gene_ids: np.ndarray) -> Iterator[CellTokens]:
        """Yield genes in the order of columns, each with a random bin among those that fit."""
        import torch

        draws = np.random.RandomState(self.seed)
        permutations = loader_generator(self.seed)
        counts = counts.sorted_indices()
        for row in range(counts.shape[0]):
            ids, values = genes_of(counts, gene_ids, row)
            ids, values = ids[values > 0], values[values > 0]
            bins = _drawn_bins(values, draws.rand(values.size), self.n_bins)
            if values.size > self.n_kept:
                order = torch.randperm(values.size, generator=permutations)[: self.n_kept].numpy()
                ids, bins = ids[order], bins[order]
            yield ids, bins

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, ready for JSON."""
        return {**super().to_dict(), "cls_value": self.cls_value}


def _drawn_bins(values: np.ndarray, draws: np.ndarray, n_bins: int) -> np.ndarray:
    if values.size == 0:
        return values
    edges = np.quantile(values, np.linspace(0, 1, n_bins - 1))
    left, right = np.digitize(values, edges), np.digitize(values, edges, right=True)
    return np.ceil(draws * (right - left) + left).astype(np.float32)
