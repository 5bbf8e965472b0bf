from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sfm.tokenizers._cells import TokenizedCells
from sfm.tokenizers._rank import RankTokenizer

if TYPE_CHECKING:
    from scipy import sparse

    from sfm.genes import GeneVocabulary


class GeneformerTokenizer(RankTokenizer):
    """Rank value encoding with `<eos>` after the genes, as Geneformer V2 has it.

    Geneformer V1 has neither `<cls>` nor `<eos>`: it is :class:`~sfm.tokenizers.RankTokenizer` itself.

    Parameters
    ----------
    vocabulary
        The genes, their token ids and medians.
    max_length
        Most tokens of a cell, special tokens included; the genes that rank lowest are cut.
    prepend_cls
        Whether each cell starts with the token `<cls>`.

    Raises
    ------
    ValueError
        If the vocabulary has no `<eos>`.
    """

    name: ClassVar[str] = "geneformer"

    def __init__(self, vocabulary: GeneVocabulary, *, max_length: int = 4096, prepend_cls: bool = True) -> None:
        super().__init__(vocabulary, max_length=max_length, prepend_cls=prepend_cls)
        if vocabulary.eos_id is None:
            msg = "The vocabulary has no '<eos>', which this tokenizer appends. Use RankTokenizer."
            raise ValueError(msg)
        self._ranking = RankTokenizer(vocabulary, max_length=max_length - 1, prepend_cls=prepend_cls)

    @property
    def n_special(self) -> int:
        """Tokens of a cell without any gene."""
        return super().n_special + 1

    def __call__(self, counts: np.ndarray | sparse.spmatrix | sparse.sparray, gene_ids: np.ndarray) -> TokenizedCells:
        """Tokenize cells, see :meth:`Tokenizer.__call__`."""
        ranked = self._ranking(counts, gene_ids)
        n_cells: Any = len(ranked)
        return TokenizedCells(
            np.insert(ranked.input_ids, ranked.indptr[1:], np.int32(self.vocabulary.eos_id or 0)),
            ranked.indptr + np.arange(n_cells + 1),
            max_length=self.max_length,
            metadata=self.to_dict(),
        )
