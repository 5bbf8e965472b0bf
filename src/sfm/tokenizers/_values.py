from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from sfm.tokenizers._base import Tokenizer

if TYPE_CHECKING:
    import numpy as np


class ValueTokenizer(Tokenizer):
    """Genes ordered by count, each with its log-normalised expression.

    The value is `log1p(count / total * 1e4)`, where the total is that of the cell over the genes of the vocabulary,
    cut ones included; `<cls>` has 0.

    Parameters
    ----------
    vocabulary
        The genes and their token ids.
    max_length
        Most tokens of a cell, special tokens included; the genes with the lowest counts are cut.
    prepend_cls
        Whether each cell starts with the token `<cls>`.

    Examples
    --------
    >>> import numpy as np
    >>> import sfm
    >>> vocabulary = sfm.GeneVocabulary(["CD3E", "MS4A1", "ACTB"])
    >>> tokenizer = sfm.tokenizers.ValueTokenizer(vocabulary)
    >>> cells = tokenizer(np.array([[1.0, 0.0, 3.0]]), vocabulary.token_ids)
    >>> cells.values.round(2)
    array([0.  , 8.92, 7.82], dtype=float32)
    """

    name: ClassVar[str] = "values"
    has_values: ClassVar[bool] = True
    value_kind: ClassVar[Literal["bins", "continuous"] | None] = "continuous"

    def gene_divisors(self) -> np.ndarray | None:
        """Return `None`: genes are ordered by count."""
        return None

    def cell_values(self, counts: np.ndarray, indptr: np.ndarray) -> np.ndarray:
        """Return log-normalised counts, see :meth:`Tokenizer.cell_values`."""
        from sfm.tokenizers._value_kernels import log_normalize

        values: np.ndarray = log_normalize(counts, indptr)
        return values
