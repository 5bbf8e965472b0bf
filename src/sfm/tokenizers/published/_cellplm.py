from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal
from zlib import crc32

import numpy as np
import pandas as pd

from sfm.tokenizers._base import Tokenizer
from sfm.tokenizers._cells import TokenizedCells
from sfm.tokenizers.published._expressed import expressed_genes

if TYPE_CHECKING:
    from scipy import sparse

    from sfm.genes import GeneVocabulary

_MOST_LEVELS = 2**30


class CellPLMTokenizer(Tokenizer):
    """All expressed genes in the order of the vocabulary, each with the logarithm of its count plus one.

    Parameters
    ----------
    vocabulary
        The genes and their token ids.
    max_length
        Most tokens of a cell; the genes with the lowest counts are cut. Default: all fit.
    batch_key
        Column of `obs` whose levels are run apart from each other, where cells are run together: it becomes a token in
        front of each cell. All are one level where the column is missing. `None` for cells that are run alone.
    """

    name: ClassVar[str] = "cellplm"
    has_values: ClassVar[bool] = True
    value_kind: ClassVar[Literal["bins", "continuous"] | None] = "continuous"

    def __init__(
        self, vocabulary: GeneVocabulary, *, max_length: int | None = None, batch_key: str | None = None
    ) -> None:
        self.batch_key = batch_key
        self.obs_columns = () if batch_key is None else (batch_key,)
        self.depends_on_order = batch_key is not None
        most = len(vocabulary) + len(self.obs_columns)
        super().__init__(vocabulary, max_length=max_length or max(most, 2), prepend_cls=False)

    def gene_divisors(self) -> np.ndarray | None:
        """Return `None`: genes are cut by count."""
        return None

    def context_tokens(self, obs: pd.DataFrame) -> np.ndarray | None:
        """Return the level of each cell as a token beyond the vocabulary, see :meth:`Tokenizer.context_tokens`."""
        if self.batch_key is None:
            return None
        levels = obs[self.batch_key].astype(str) if self.batch_key in obs else pd.Series("", index=obs.index)
        codes, names = pd.factorize(levels)
        # Made of the name, so that cells that are read in parts agree on it.
        tokens = np.array([self.vocabulary.size + crc32(str(name).encode()) % _MOST_LEVELS for name in names])
        return tokens[codes][:, None].astype(np.int32)

    def __call__(self, counts: np.ndarray | sparse.spmatrix | sparse.sparray, gene_ids: np.ndarray) -> TokenizedCells:
        """Tokenize cells, see :meth:`Tokenizer.__call__`."""
        genes = expressed_genes(self, counts, gene_ids).highest(self.max_length - len(self.obs_columns))
        values = np.log1p(genes.counts)
        return TokenizedCells(
            genes.tokens, genes.indptr, values=values, max_length=self.max_length, metadata=self.to_dict()
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, ready for JSON."""
        return {"tokenizer": self.name, "max_length": self.max_length, "batch_key": self.batch_key}
