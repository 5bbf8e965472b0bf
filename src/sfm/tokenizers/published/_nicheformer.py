from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numba
import numpy as np
import pandas as pd

from sfm.tokenizers._cells import TokenizedCells
from sfm.tokenizers._rank import RankTokenizer
from sfm.tokenizers._rows import CountRows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scipy import sparse

    from sfm.genes import GeneVocabulary

#: Token ids of what is known of a cell, by column of `obs` and name in lower case, in the order of the tokens.
CONTEXT: dict[str, dict[str, int]] = {
    "specie": {"human": 5, "homo sapiens": 5, "mouse": 6, "mus musculus": 6},
    "assay": {
        "merfish": 7,
        "cosmx": 8,
        "nanostring digital spatial profiling": 8,
        "xenium": 9,
        "10x 5' v2": 10,
        "10x 3' v3": 11,
        "10x 3' v2": 12,
        "10x 5' v1": 13,
        "10x 3' v1": 14,
        "10x transcription profiling": 15,
        "10x 3' transcription profiling": 15,
        "10x 5' transcription profiling": 16,
        "cite-seq": 17,
        "smart-seq v4": 18,
    },
    "modality": {"dissociated": 3, "spatial": 4},
}


class NicheformerTokenizer(RankTokenizer):
    """Genes ordered by count divided by the mean of the technology, after species, technology and modality.

    Parameters
    ----------
    vocabulary
        The genes and their token ids; the medians are the means of the technology.
    max_length
        Most tokens of a cell, those three included; the genes that rank lowest are cut.
    prepend_cls
        Whether the genes are preceded by `<cls>`, which this model does not know.
    context
        Value of all cells by column of `obs`, for columns that are not there: text or the number of a token.
    """

    name: ClassVar[str] = "nicheformer"
    obs_columns: tuple[str, ...] = tuple(CONTEXT)

    def __init__(
        self,
        vocabulary: GeneVocabulary,
        *,
        max_length: int = 1500,
        prepend_cls: bool = False,
        context: Mapping[str, str | int] | None = None,
    ) -> None:
        super().__init__(vocabulary, max_length=max_length, prepend_cls=prepend_cls)
        self.context = dict(context or {})
        for column, value in self.context.items():
            _token_of(column, value)
        self._ranking = RankTokenizer(vocabulary, max_length=max(self.longest, 2), prepend_cls=False)

    @property
    def longest(self) -> int:
        """Most genes of a cell."""
        return self.max_length - len(CONTEXT)

    def context_tokens(self, obs: pd.DataFrame) -> np.ndarray | None:
        """Return the tokens of species, technology and modality, see :meth:`Tokenizer.context_tokens`.

        Parameters
        ----------
        obs
            Annotations of some cells.

        Raises
        ------
        ValueError
            If a column is neither there nor given, or a cell has a value that the model does not know.
        """
        columns = [_column_tokens(obs, column, self.context.get(column)) for column in self.obs_columns]
        return np.stack(columns, axis=1)

    def __call__(self, counts: np.ndarray | sparse.spmatrix | sparse.sparray, gene_ids: np.ndarray) -> TokenizedCells:
        """Tokenize cells, see :meth:`Tokenizer.__call__`."""
        ranked = self._ranking(counts, gene_ids)
        return TokenizedCells(ranked.input_ids, ranked.indptr, max_length=self.max_length, metadata=self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, ready for JSON."""
        return {**super().to_dict(), "context": self.context}

    def params(self) -> dict[str, Any]:
        """Provenance for `uns`, with what holds for all cells."""
        return {**super().params(), **{column: str(value) for column, value in self.context.items()}}


class NicheformerReferenceTokenizer(NicheformerTokenizer):
    """The same as the reference implementation does it: its order of equal genes, and padding up to `max_length`.

    Parameters
    ----------
    vocabulary
        The genes and their token ids.
    max_length, prepend_cls, context
        As :class:`NicheformerTokenizer`.
    means
        Means of the technology in the order of the vocabulary, `None` where one is missing; then all cells have the
        gene, after those that are expressed. Empty for no division.
    fill_id
        Token that fills cells up.
    """

    name: ClassVar[str] = "nicheformer_reference"

    def __init__(
        self,
        vocabulary: GeneVocabulary,
        *,
        max_length: int = 1500,
        prepend_cls: bool = False,
        context: Mapping[str, str | int] | None = None,
        means: Sequence[float | None] = (),
        fill_id: int = 1,
    ) -> None:
        super().__init__(vocabulary, max_length=max_length, prepend_cls=prepend_cls, context=context)
        given = np.array(means, dtype=np.float64)
        self.means = np.ones(len(vocabulary)) if given.size == 0 else given
        self.fill_id = int(fill_id)

    def __call__(self, counts: np.ndarray | sparse.spmatrix | sparse.sparray, gene_ids: np.ndarray) -> TokenizedCells:
        """Tokenize cells, see :meth:`Tokenizer.__call__`."""
        gene_ids = np.asarray(gene_ids)
        source = CountRows.of(counts, gene_ids)
        row_of_token = np.full(self.vocabulary.size + 1, -1)
        row_of_token[self.vocabulary.token_ids] = np.arange(len(self.vocabulary))
        tokens = np.full((source.n_rows, self.longest), self.fill_id, dtype=np.int32)
        for run in source.runs():
            rows = source.rows(run).summed(row_of_token[gene_ids], len(self.vocabulary))
            _rank_as_published(rows.data, rows.indices, rows.indptr, self.means, self.vocabulary.token_ids, tokens[run])
        indptr = np.arange(source.n_rows + 1) * self.longest
        return TokenizedCells(tokens.ravel(), indptr, max_length=self.max_length, metadata=self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, ready for JSON."""
        means = [None if np.isnan(mean) else mean for mean in self.means.tolist()]
        return {**super().to_dict(), "means": means, "fill_id": self.fill_id}


@numba.njit(cache=True, nogil=True)
def _rank_as_published(  # noqa: PLR0917
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    means: np.ndarray,
    token_ids: np.ndarray,
    tokens: np.ndarray,
) -> None:
    """Write the genes of each cell; equal ones come as numba's own sorting leaves them, NaN is above zero and last."""
    for row in range(indptr.size - 1):
        own = slice(indptr[row], indptr[row + 1])
        total = data[own].sum()
        scores = np.zeros(means.size)
        scores[indices[own]] = data[own] * (10_000.0 / (total if total > 0 else 1.0))
        scores /= means
        expressed = np.flatnonzero(scores)
        order = np.argsort(-scores[expressed])[: tokens.shape[1]]
        tokens[row, : order.size] = token_ids[expressed[order]]


def _column_tokens(obs: pd.DataFrame, column: str, given: str | int | None) -> np.ndarray:
    if column not in obs:
        if given is None:
            msg = (
                f"adata.obs has no column {column!r}, which Nicheformer reads (known values: {_known(column)}). Add it, or "
                f"pass {column}= to `sfm.load` if it is the same for all cells."
            )
            raise ValueError(msg)
        return np.full(len(obs), _token_of(column, given), dtype=np.int32)
    codes, values = pd.factorize(obs[column], use_na_sentinel=False)
    return np.array([_token_of(column, value) for value in values], dtype=np.int32)[codes]


def _token_of(column: str, value: Any) -> int:
    """Return the token of a name, in any case, or of the number of a token."""
    known = CONTEXT.get(column, {})
    text = str(value).strip().lower()
    number = text.removesuffix(".0")
    if text in known:
        return known[text]
    if number.isdecimal() and int(number) in known.values():
        return int(number)
    msg = f"{column}={value!r} is none of the values that Nicheformer knows: {_known(column)}."
    raise ValueError(msg)


def _known(column: str) -> str:
    return ", ".join(f"{name!r} ({token})" for name, token in CONTEXT.get(column, {}).items())
