from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sfm.tokenizers._base import Tokenizer

if TYPE_CHECKING:
    import numpy as np

    from sfm.genes import GeneVocabulary


class BinTokenizer(Tokenizer):
    """Genes ordered by count, each with the bin of its count among the cell's own counts.

    The value binning of scGPT (Cui et al., 2024, Nature Methods 21, 1470-1480): the `n_bins - 1` edges are evenly
    spaced quantiles of the cell's non-zero counts. A count that equals several edges could be in any bin between them;
    the published rule draws one at random for each gene, here it is always the middle one, so that equal counts have
    equal bins and every run gives the same result. Bins are 1 to `n_bins - 1`; `<cls>` has 0.

    Parameters
    ----------
    vocabulary
        The genes and their token ids.
    max_length
        Most tokens of a cell, special tokens included; the genes with the lowest counts are cut, after binning.
    prepend_cls
        Whether each cell starts with the token `<cls>`.
    n_bins
        Number of bins, that of zero included.

    Raises
    ------
    ValueError
        If `n_bins` is below 2, `max_length` is below 2, or the vocabulary has no `<cls>` to prepend.

    Examples
    --------
    >>> import numpy as np
    >>> import sfm
    >>> vocabulary = sfm.GeneVocabulary(["CD3E", "MS4A1", "ACTB"])
    >>> tokenizer = sfm.tokenizers.BinTokenizer(vocabulary, prepend_cls=False)
    >>> cells = tokenizer(np.array([[3.0, 1.0, 2.0]]), vocabulary.token_ids)
    >>> cells.input_ids.tolist(), cells.values.tolist()
    ([4, 6, 5], [50.0, 25.0, 1.0])
    """

    name: ClassVar[str] = "bins"
    has_values: ClassVar[bool] = True
    value_kind: ClassVar[Literal["bins", "continuous"] | None] = "bins"

    def __init__(
        self, vocabulary: GeneVocabulary, *, max_length: int = 2048, prepend_cls: bool = True, n_bins: int = 51
    ) -> None:
        super().__init__(vocabulary, max_length=max_length, prepend_cls=prepend_cls)
        if n_bins < 2:
            msg = f"n_bins={n_bins!r} leaves no bin for expressed genes. Pass 2 or more."
            raise ValueError(msg)
        self.n_bins = int(n_bins)

    def gene_divisors(self) -> np.ndarray | None:
        """Return `None`: genes are ordered by count."""
        return None

    def cell_values(self, counts: np.ndarray, indptr: np.ndarray) -> np.ndarray:
        """Return the bins, see :meth:`Tokenizer.cell_values`."""
        from sfm.tokenizers._value_kernels import quantile_bins

        bins: np.ndarray = quantile_bins(counts, indptr, self.n_bins)
        return bins

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, ready for JSON."""
        return {**super().to_dict(), "n_bins": self.n_bins}
