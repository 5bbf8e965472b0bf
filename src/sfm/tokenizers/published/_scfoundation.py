from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np

from sfm.tokenizers._base import Tokenizer
from sfm.tokenizers._cells import TokenizedCells
from sfm.tokenizers.published._expressed import expressed_genes

if TYPE_CHECKING:
    from scipy import sparse

    from sfm.genes import GeneVocabulary

Expression = Literal["counts", "log1p", "bulk"]

TARGET, DEPTH = "<target>", "<depth>"
_PER_CELL = 1e4
_TARGET = re.compile(r"([tfa])(-?\d+(?:\.\d+)?)")


class ScFoundationTokenizer(Tokenizer):
    """All expressed genes with their log-normalised expression, then the read depth that is wished and that there is.

    The value of a gene is `log1p(count / total * 1e4)`, that of `<depth>` is `log10(total)`, where the total is that of
    the cell over the genes of the vocabulary. Genes are in the order of the vocabulary. A cell without any count has no
    token at all.

    Parameters
    ----------
    vocabulary
        The genes, and the tokens `<target>` and `<depth>`.
    max_length
        Most tokens of a cell, those two included; the genes with the lowest counts are cut. Default: all fit.
    target
        Read depth that the model is to bring the cell to: `"t4"` sets the value of `<target>` to 4, which stands for
        10,000 counts; `"f2"` to `log10(2 * total)`, twice the depth; `"a5"` to `log10(total) + 5`.
    expression
        What the matrix holds: `"counts"`; `"log1p"`, expression of cells that was log-normalised before; or `"bulk"`,
        log-normalised expression of bulk samples. With the latter two values stay as they are, and the total is their sum,
        as the authors have it. Bulk samples are read at their own depth, whatever `target` says.

    Raises
    ------
    ValueError
        If `target` or `expression` is none of these, or the vocabulary lacks the two tokens.
    """

    name: ClassVar[str] = "scfoundation"
    has_values: ClassVar[bool] = True
    value_kind: ClassVar[Literal["bins", "continuous"] | None] = "continuous"

    def __init__(
        self,
        vocabulary: GeneVocabulary,
        *,
        max_length: int | None = None,
        target: str = "t4",
        expression: Expression = "counts",
    ) -> None:
        super().__init__(vocabulary, max_length=max_length or len(vocabulary) + 2, prepend_cls=False)
        missing = [token for token in (TARGET, DEPTH) if token not in vocabulary.special_tokens]
        if missing:
            msg = f"The vocabulary has no {missing[0]!r}, which this tokenizer appends. Load it with `sfm.load`."
            raise ValueError(msg)
        if not _TARGET.fullmatch(target):
            msg = f"target={target!r} is not a letter and a number: 't4' for 10,000 counts, 'f2' for twice the counts of the cell, 'a5' for 10 ** 5 times."
            raise ValueError(msg)
        if expression not in get_args(Expression):
            msg = f"Unknown expression={expression!r}. Choose one of {', '.join(map(repr, get_args(Expression)))}."
            raise ValueError(msg)
        self.target = target
        self.expression = expression
        if expression != "counts":
            self.requires = "log1p"  # type: ignore[misc, assignment]

    def gene_divisors(self) -> np.ndarray | None:
        """Return `None`: genes are cut by count."""
        return None

    def __call__(self, counts: np.ndarray | sparse.spmatrix | sparse.sparray, gene_ids: np.ndarray) -> TokenizedCells:
        """Tokenize cells, see :meth:`Tokenizer.__call__`."""
        genes = expressed_genes(self, counts, gene_ids)
        totals = genes.totals
        genes = genes.highest(self.max_length - 2)
        values = genes.counts
        if self.expression == "counts":
            values = np.log1p(genes.counts / totals[genes.cell] * _PER_CELL)
        filled = np.flatnonzero(totals > 0)
        ends = np.repeat(genes.indptr[1:][filled], 2)
        special = self.vocabulary.special_tokens
        depth = np.log10(totals[filled])
        # (cells, 2): the authors' order, target before depth.
        appended = np.stack([self._target_values(depth), depth], axis=1)
        return TokenizedCells(
            np.insert(genes.tokens, ends, np.tile([special[TARGET], special[DEPTH]], filled.size)),
            genes.indptr + np.concatenate([[0], np.cumsum(2 * (totals > 0))]),
            values=np.insert(values, ends, appended.ravel()),
            max_length=self.max_length,
            metadata=self.to_dict(),
        )

    def _target_values(self, depth: np.ndarray) -> np.ndarray:
        if self.expression == "bulk":
            return depth
        kind, number = self.target[0], float(self.target[1:])
        match kind:
            case "t":
                return np.full(depth.size, number)
            case "f":
                return depth + np.log10(number)
            case _:
                return depth + number

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, ready for JSON."""
        settings = {"tokenizer": self.name, "max_length": self.max_length, "target": self.target}
        return settings | ({} if self.expression == "counts" else {"expression": self.expression})
