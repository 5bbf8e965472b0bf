from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from sfm.tokenizers._names import PUBLISHED_TOKENIZERS, TOKENIZERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pandas as pd
    from scipy import sparse

    from sfm.genes import GeneVocabulary
    from sfm.tokenizers._cells import TokenizedCells


class Tokenizer(ABC):
    """Turns the counts of a cell into a sequence of gene tokens, highest first.

    A gene is expressed where its count is above zero. The expressed genes of a cell are ordered by count divided by
    :meth:`gene_divisors`, descending; exact ties go by token id, ascending. So a cell's tokens depend on that cell
    and the vocabulary alone. A tokenizer of your own defines `name`, :meth:`gene_divisors` and, if its tokens have
    values, `has_values`, `value_kind` and :meth:`cell_values`.

    Parameters
    ----------
    vocabulary
        The genes and their token ids.
    max_length
        Most tokens of a cell, special tokens included; the genes that rank lowest are cut.
    prepend_cls
        Whether each cell starts with the token `<cls>`.

    Raises
    ------
    ValueError
        If `max_length` is below 2, or `prepend_cls` is asked of a vocabulary without `<cls>`.
    """

    #: Name in the registry.
    name: ClassVar[str]
    #: State that the input must have.
    requires: ClassVar[Literal["counts"]] = "counts"
    #: Whether each token has a value.
    has_values: ClassVar[bool] = False
    #: How a model embeds the values, `None` without values.
    value_kind: ClassVar[Literal["bins", "continuous"] | None] = None
    #: Columns of `obs` that become tokens in front of a cell's own, see :meth:`context_tokens`.
    obs_columns: tuple[str, ...] = ()
    #: Value of those tokens, where tokens have values.
    context_value: float = 0.0
    #: Whether a cell's tokens depend on the cells before it, so that all are tokenized in one go. Only tokenizers that
    #: reproduce the random numbers of a reference implementation do.
    depends_on_order: bool = False

    def __init__(self, vocabulary: GeneVocabulary, *, max_length: int = 2048, prepend_cls: bool = True) -> None:
        if max_length < 2:
            msg = f"max_length={max_length!r} leaves no room for genes. Pass 2 or more."
            raise ValueError(msg)
        if prepend_cls and vocabulary.cls_id is None:
            known = ", ".join(map(repr, vocabulary.special_tokens)) or "none"
            msg = f"prepend_cls=True, but the vocabulary has no '<cls>' (special tokens: {known}). Pass prepend_cls=False."
            raise ValueError(msg)
        self.vocabulary = vocabulary
        self.max_length = int(max_length)
        self.prepend_cls = bool(prepend_cls)

    @abstractmethod
    def gene_divisors(self) -> np.ndarray | None:
        """Return what the counts of each vocabulary gene are divided by for ranking.

        Returns
        -------
        Positive float64 of shape `(n_genes,)`, in the order of the vocabulary; `None` for ones.
        """

    def cell_values(self, counts: np.ndarray, indptr: np.ndarray) -> np.ndarray:
        """Return the value of each token; called only if `has_values`, for some cells at a time, by several threads.

        Parameters
        ----------
        counts
            Counts of the expressed genes of some cells, cell after cell in rank order, before truncation; float64 of
            shape `(nnz,)`.
        indptr
            Cell `i` owns `counts[indptr[i]:indptr[i + 1]]`; int64 of shape `(n_cells + 1,)`.

        Returns
        -------
        Values, float32 of shape `(nnz,)`, each computed from its own cell alone.
        """
        msg = f"{type(self).__name__} says has_values=True but does not define cell_values."
        raise NotImplementedError(msg)

    def __call__(self, counts: np.ndarray | sparse.spmatrix | sparse.sparray, gene_ids: np.ndarray) -> TokenizedCells:
        """Tokenize cells.

        Columns that share a token are summed first. Columns that the vocabulary does not know have no influence at
        all, not on library sizes either. A cell without any expressed gene gets `<cls>` alone, or no token.

        Parameters
        ----------
        counts
            Non-negative counts, shape `(n_cells, n_vars)`; scipy CSR or CSC, or a numpy array. It is not modified.
        gene_ids
            Token id of each column, -1 where the vocabulary does not know the gene; integers of shape `(n_vars,)`.

        Returns
        -------
        The tokens of all cells, in order.

        Raises
        ------
        ValueError
            If shapes do not fit, `gene_ids` has ids that the vocabulary lacks, or a count is negative, NaN or
            infinite.
        """
        from sfm.tokenizers._ranking import tokenize_counts

        return tokenize_counts(self, counts, gene_ids)

    @property
    def n_special(self) -> int:
        """Tokens of a cell without any gene, those of `obs` included."""
        return int(self.prepend_cls) + len(self.obs_columns)

    def context_tokens(self, obs: pd.DataFrame) -> np.ndarray | None:
        """Return the tokens that stand in front of each cell's own, because of its annotations.

        Parameters
        ----------
        obs
            Annotations of some cells; columns may be missing.

        Returns
        -------
        Token ids, int32 of shape `(n_cells, len(obs_columns))`, or `None` without `obs_columns`. The cells that are made
        of counts alone must leave room for them: they have at most `max_length - len(obs_columns)` tokens.
        """
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, ready for JSON; :meth:`from_dict` is the inverse."""
        return {"tokenizer": self.name, "max_length": self.max_length, "prepend_cls": self.prepend_cls}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], vocabulary: GeneVocabulary) -> Self:
        """Make a tokenizer from what :meth:`to_dict` returned.

        Parameters
        ----------
        settings
            The settings; `settings["tokenizer"]` is the name of the class.
        vocabulary
            The genes and their token ids.

        Raises
        ------
        ValueError
            If `settings` names no tokenizer, or one that is not known.
        """
        if "tokenizer" not in settings:
            msg = f"settings has no 'tokenizer' (keys: {sorted(settings)!r}). Pass what Tokenizer.to_dict returned."
            raise ValueError(msg)
        options = {key: value for key, value in settings.items() if key != "tokenizer"}
        name = settings["tokenizer"]
        registry = PUBLISHED_TOKENIZERS if name in PUBLISHED_TOKENIZERS.names() else TOKENIZERS
        tokenizer: Self = registry.load(name)(vocabulary, **options)
        return tokenizer

    def params(self) -> dict[str, Any]:
        """Provenance for `uns`: the settings and the hash of the vocabulary."""
        short = {key: value for key, value in self.to_dict().items() if not isinstance(value, list | dict)}
        return {**short, "vocabulary_hash": self.vocabulary.content_hash}

    def __repr__(self) -> str:
        hidden = ("tokenizer", "vocabulary_hash")
        options = ", ".join(f"{key}={value!r}" for key, value in self.params().items() if key not in hidden)
        return f"{type(self).__name__}({self.vocabulary!r}, {options})"
