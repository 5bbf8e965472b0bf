from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from scipy import sparse

from sfm.tokenizers._base import Tokenizer
from sfm.tokenizers._cells import TokenizedCells

if TYPE_CHECKING:
    from sfm.genes import GeneVocabulary

Filler = Literal["vocabulary", "measured"]

# What the authors' program takes for counts and not for their logarithms.
_MAX_LOG = 35
_MAX_LIBRARY = 5_000_000
_SCALE = 100.0
# Place of the gene whose value the reference gives to `<cls>`.
_CLS_PLACE = 3


class StateTokenizer(Tokenizer):
    """Genes by expression, filled up with genes that are not expressed, as STATE's state embedding reads cells.

    A cell is `<cls>`, the expressed genes, highest first, as many of the others as there is room for, and `<dataset>`.
    The value of a gene is its share of the cell's log counts, in percent; that of `<cls>` is 0. Other genes come in one
    random order that is the same for all cells. A cell without expressed genes is `<cls>` and `<dataset>`.

    Parameters
    ----------
    vocabulary
        The genes and their token ids, with `<cls>` and `<dataset>`.
    max_length
        Most tokens of a cell, special tokens included; the genes with the lowest counts are cut.
    prepend_cls
        Whether each cell starts with the token `<cls>`; this model knows no other way.
    filler
        Whether genes that are not expressed are taken from the whole `"vocabulary"`, so that a cell's tokens follow from
        its counts alone, or from those that the data set has `"measured"`, for panels of few genes.
    reference
        Whether to proceed as the original implementation does: whether a cell holds counts is guessed for each cell,
        equal genes and filler come in random order, genes are those of the data set, and `<cls>` has the value of its
        fourth gene.
    seed
        Seed of the random order, with `reference`.
    """

    name: ClassVar[str] = "state_se"
    has_values: ClassVar[bool] = True
    value_kind: ClassVar[Literal["bins", "continuous"] | None] = "continuous"

    def __init__(
        self,
        vocabulary: GeneVocabulary,
        *,
        max_length: int = 2049,
        prepend_cls: bool = True,
        filler: Filler = "vocabulary",
        reference: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(vocabulary, max_length=max_length, prepend_cls=prepend_cls)
        if filler not in ("vocabulary", "measured"):
            msg = f"Unknown filler={filler!r}. Choose 'vocabulary' or 'measured'."
            raise ValueError(msg)
        if not prepend_cls or max_length < 3:
            msg = f"prepend_cls={prepend_cls!r} and max_length={max_length!r}, but each cell needs '<cls>', genes and '<dataset>'."
            raise ValueError(msg)
        self.filler: Filler = filler
        self.reference = bool(reference)
        self.seed = int(seed)
        self.depends_on_order = self.reference
        self.dataset_id = vocabulary.special_tokens["<dataset>"]
        self._ranking = _LogShares(vocabulary, max_length=max_length - 1)

    @property
    def n_special(self) -> int:
        """Tokens of a cell without any gene."""
        return super().n_special + 1

    def gene_divisors(self) -> np.ndarray | None:
        """Return `None`: genes are ordered by count."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, ready for JSON."""
        return {**super().to_dict(), "filler": self.filler, "reference": self.reference, "seed": self.seed}

    def __call__(self, counts: np.ndarray | sparse.spmatrix | sparse.sparray, gene_ids: np.ndarray) -> TokenizedCells:
        """Tokenize cells, see :meth:`Tokenizer.__call__`."""
        gene_ids = np.asarray(gene_ids)
        if self.reference:
            return self._replay(sparse.csr_matrix(counts), gene_ids)
        ranked = self._ranking(counts, gene_ids)
        return self._with_filler(ranked, self._filler_order(gene_ids))

    def _filler_order(self, gene_ids: np.ndarray) -> np.ndarray:
        """Return the tokens that fill cells up, in their order, no more than ever needed."""
        from sfm.tokenizers.published._content import hashed_keys

        tokens = self.vocabulary.token_ids
        if self.filler == "measured":
            tokens = np.intersect1d(tokens, gene_ids)
        keys = hashed_keys(np.zeros(1, dtype=np.uint64), tokens, np.array([0, tokens.size]))
        order: np.ndarray = tokens[np.argsort(keys)][: self.max_length - 2]
        return order

    def _with_filler(self, ranked: TokenizedCells, order: np.ndarray) -> TokenizedCells:
        """Append filler and `<dataset>`."""
        from sfm.tokenizers.published._state_se_kernels import fill_up

        place = np.full(self.vocabulary.size, order.size, dtype=np.int32)
        place[order] = np.arange(order.size)
        given: Any = ranked.values
        input_ids, values, indptr = fill_up(
            ranked.input_ids, given, ranked.indptr, order, place, self.max_length, self.dataset_id
        )
        return TokenizedCells(input_ids, indptr, values=values, max_length=self.max_length, metadata=self.params())

    def _replay(self, counts: sparse.csr_matrix, gene_ids: np.ndarray) -> TokenizedCells:
        stream = np.random.RandomState(self.seed)
        rows = [self._replay_cell(counts[row].toarray()[0], gene_ids, stream) for row in range(counts.shape[0])]
        lengths = [tokens.size for tokens, _ in rows]
        return TokenizedCells(
            np.concatenate([np.zeros(0, dtype=np.int32), *(tokens for tokens, _ in rows)]),
            np.cumsum([0, *lengths]),
            values=np.concatenate([np.zeros(0, dtype=np.float32), *(values for _, values in rows)]),
            max_length=self.max_length,
            metadata=self.params(),
        )

    def _replay_cell(
        self, expression: np.ndarray, gene_ids: np.ndarray, stream: np.random.RandomState
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokenize a cell as the original implementation does, but for its random numbers."""
        logs = _logs(expression)[gene_ids >= 0]
        genes = gene_ids[gene_ids >= 0]
        total = logs.sum(dtype=np.float32)
        shares = logs / total if total > 0 else np.full(logs.size, 1 / max(logs.size, 1))
        shuffled = stream.permutation(logs.size)
        order = shuffled[np.argsort(-logs[shuffled], kind="stable")]
        n_slots = self.max_length - 2
        if order.size < n_slots:
            others = np.flatnonzero(logs == 0)
            order = order[: np.count_nonzero(logs)]
            order = np.append(order, stream.choice(others, n_slots - order.size) if others.size else others)
        of_cls = shares[_CLS_PLACE] if shares.size > _CLS_PLACE else 0.0
        tokens = np.concatenate([[self.vocabulary.cls_id], genes[order[:n_slots]], [self.dataset_id]])
        values = np.concatenate([[of_cls], shares[order[:n_slots]], [0.0]]) * _SCALE
        return tokens.astype(np.int32), values.astype(np.float32)


class _LogShares(Tokenizer):
    """Expressed genes, highest first, each with its share of the log counts in percent."""

    name: ClassVar[str] = "state_se"
    has_values: ClassVar[bool] = True

    def gene_divisors(self) -> np.ndarray | None:
        return None

    def cell_values(self, counts: np.ndarray, indptr: np.ndarray) -> np.ndarray:
        logs = np.log1p(counts)
        lengths = np.diff(indptr)
        # Sums from the first to the last gene, which are the same in any block of cells.
        totals = np.zeros(lengths.size)
        filled = lengths > 0
        totals[filled] = np.add.reduceat(logs, indptr[:-1][filled]) if filled.any() else 0
        shares: np.ndarray = (_SCALE * logs / np.repeat(totals, lengths)).astype(np.float32)
        return shares


def _logs(expression: np.ndarray) -> np.ndarray:
    """Return logarithms of counts, or what seems to be some already; single precision as in the reference."""
    expression = np.maximum(expression, 0).astype(np.float32)
    if expression.max(initial=0) > _MAX_LOG or int(np.expm1(expression).sum()) > _MAX_LIBRARY:
        return np.log1p(expression)
    return expression
