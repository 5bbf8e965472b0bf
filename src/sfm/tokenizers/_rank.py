from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sfm.tokenizers._base import Tokenizer

if TYPE_CHECKING:
    import numpy as np


class RankTokenizer(Tokenizer):
    """Genes ordered by count divided by the gene's median; expression enters by the order alone.

    The rank value encoding of Geneformer (Theodoris et al., 2023, Nature 618, 616-624): genes that are unusually high
    in the cell come first, housekeeping genes last. Where the vocabulary has no medians, genes are ordered by count.
    Counts are compared exactly, in float64; scaling a cell to a library size would not change its order.

    Parameters
    ----------
    vocabulary
        The genes, their token ids and medians.
    max_length
        Most tokens of a cell, special tokens included; the genes that rank lowest are cut.
    prepend_cls
        Whether each cell starts with the token `<cls>`.

    Examples
    --------
    >>> import numpy as np
    >>> import sfm
    >>> vocabulary = sfm.GeneVocabulary(["CD3E", "MS4A1", "ACTB"], medians=[1.0, 1.0, 10.0])
    >>> tokenizer = sfm.tokenizers.RankTokenizer(vocabulary)
    >>> tokenizer(np.array([[2.0, 0.0, 8.0]]), vocabulary.token_ids).input_ids.tolist()
    [2, 4, 6]
    """

    name: ClassVar[str] = "rank"

    def gene_divisors(self) -> np.ndarray | None:
        """Return the medians of the vocabulary."""
        return self.vocabulary.medians
