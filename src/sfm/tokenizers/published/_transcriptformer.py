from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from sfm._warn import warn
from sfm.tokenizers._base import Tokenizer
from sfm.tokenizers._cells import TokenizedCells
from sfm.tokenizers._rows import CountRows, Rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from scipy import sparse

    from sfm.genes import GeneVocabulary

# Named to those whose data do not say, if the model knows it.
_EXAMPLE = "10x 3' v3"


class TranscriptformerTokenizer(Tokenizer):
    """Expressed genes with their counts, after a token that starts the cell and those of its annotations.

    The genes stand in the order of their token ids. Of a cell with more than fit, those with the highest counts are
    kept, of equal ones those with the lowest token ids: so a small change of the counts changes few tokens, and counts
    of one, the least certain, go first.

    Parameters
    ----------
    vocabulary
        The genes and their token ids. Special tokens named `column=value` stand for annotations.
    max_length
        Most tokens of a cell, special tokens included.
    prepend_cls
        Whether the token `<cls>` comes before the genes; the model needs it.
    obs_columns
        Columns of `obs` that become tokens, such as the assay. A missing column or a value without a token is
        `"unknown"`, which the model does not look at; the first time that happens there is a warning.
    clip_counts
        Counts above this are taken as this.
    scale
        What the counts that are kept are scaled to sum to, in each cell; 0 leaves them.
    keep_order
        Keep genes in the order of their columns, and the first ones of those, as the reference implementation does;
        the second of two columns of one gene is left out.
    fill_id
        Token that fills all cells up, as the reference implementation does for new species; `None` for none.

    Raises
    ------
    ValueError
        If a column has no token for `"unknown"`.
    """

    name: ClassVar[str] = "transcriptformer"
    has_values: ClassVar[bool] = True
    value_kind: ClassVar[Literal["bins", "continuous"] | None] = "continuous"
    context_value: float = 1.0

    def __init__(
        self,
        vocabulary: GeneVocabulary,
        *,
        max_length: int = 2049,
        prepend_cls: bool = True,
        obs_columns: Sequence[str] = (),
        clip_counts: float = 30.0,
        scale: float = 0.0,
        keep_order: bool = False,
        fill_id: int | None = None,
    ) -> None:
        super().__init__(vocabulary, max_length=max_length, prepend_cls=prepend_cls)
        self.obs_columns = tuple(obs_columns)
        self.clip_counts = float(clip_counts)
        self.scale = float(scale)
        self.keep_order = bool(keep_order)
        self.fill_id = fill_id
        self._context = {column: _tokens_of(vocabulary, column) for column in self.obs_columns}
        self._warned: set[str] = set()

    @property
    def longest(self) -> int:
        """Most genes of a cell."""
        return self.max_length - self.n_special

    def gene_divisors(self) -> np.ndarray | None:
        """Return `None`: counts are compared as they are."""
        return None

    def context_tokens(self, obs: pd.DataFrame) -> np.ndarray | None:
        """Return the tokens of the annotations, see :meth:`Tokenizer.context_tokens`."""
        tokens = np.empty((len(obs), len(self.obs_columns)), dtype=np.int32)
        for i, (column, known) in enumerate(self._context.items()):
            names = obs[column].astype(object).where(obs[column].notna(), "unknown") if column in obs else None
            self._warn_of_unknown(column, [] if names is None else names.unique().tolist(), is_missing=names is None)
            tokens[:, i] = known["unknown"] if names is None else [known.get(str(n), known["unknown"]) for n in names]
        return tokens

    def _warn_of_unknown(self, column: str, names: list[Any], *, is_missing: bool) -> None:
        """Warn, once, of a column that is missing or has names that the model does not know."""
        known = self._context[column]
        unlisted = [name for name in names if str(name) not in known]
        if column in self._warned or not (is_missing or unlisted):
            return
        self._warned.add(column)
        example = _EXAMPLE if _EXAMPLE in known else max(known, key=known.__getitem__)
        found = f"has no column {column!r}" if is_missing else f"[{column!r}] has {unlisted[0]!r}, which is not known"
        msg = (
            f"adata.obs{' ' * is_missing}{found}, so the model reads such cells as of an unknown {column}, and their vectors "
            f"differ from those of a known one. Set it to a name that the model knows, for example adata.obs[{column!r}] = "
            f"{example!r}, or to 'unknown' if it is not among the {len(known) - 1} of them."
        )
        warn(msg)

    def __call__(self, counts: np.ndarray | sparse.spmatrix | sparse.sparray, gene_ids: np.ndarray) -> TokenizedCells:
        """Tokenize cells, see :meth:`Tokenizer.__call__`."""
        gene_ids = np.asarray(gene_ids)
        _refuse_unknown(gene_ids, self.vocabulary)
        source = CountRows.of(counts, gene_ids)
        column_place, token_of_place = self._places(gene_ids)
        # The first part is empty, so that there is one even without cells.
        parts = [(np.empty(0, np.int32), np.empty(0, np.float32), np.zeros(1, np.int64))]
        for run in source.runs():
            rows = source.rows(run).summed(column_place, token_of_place.size)
            parts.append(self._tokenize(rows, token_of_place))
        tokens, values, lengths = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return TokenizedCells(
            tokens, lengths.cumsum(), values=values, max_length=self.max_length, metadata=self.to_dict()
        )

    def _places(self, gene_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the place of each column in the order of tokens, -1 for none, and the token of each place."""
        if not self.keep_order:
            return gene_ids, np.arange(self.vocabulary.size)
        place = np.where(gene_ids >= 0, np.arange(gene_ids.size), -1)
        known = np.flatnonzero(gene_ids >= 0)
        _, first = np.unique(gene_ids[known], return_index=True)
        place[np.setdiff1d(known, known[first])] = -1
        return place, gene_ids

    def _tokenize(self, rows: Rows, token_of_place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return tokens, values, and the number of them per cell."""
        expressed = rows.data > 0
        counts = rows.data[expressed].astype(np.float32)
        tokens = token_of_place[rows.indices[expressed]].astype(np.int32)
        cell = np.repeat(np.arange(rows.n_rows), np.diff(rows.indptr))[expressed]
        kept = self._kept(counts, cell, rows.n_rows)
        tokens, counts, cell = tokens[kept], counts[kept], cell[kept]
        if self.scale > 0:
            totals = np.bincount(cell, weights=counts, minlength=rows.n_rows).astype(np.float32)
            counts = counts * (np.float32(self.scale) / totals[cell])
        counts = np.minimum(counts, np.float32(self.clip_counts))
        lengths = np.bincount(cell, minlength=rows.n_rows)
        if self.fill_id is not None:
            ends = np.repeat(lengths.cumsum(), self.longest - lengths)
            tokens, counts = np.insert(tokens, ends, self.fill_id), np.insert(counts, ends, 0)
            lengths = np.full(rows.n_rows, self.longest)
        if self.prepend_cls:
            starts = lengths.cumsum() - lengths
            tokens, counts = np.insert(tokens, starts, self.vocabulary.cls_id or 0), np.insert(counts, starts, 1)
            lengths = lengths + 1
        return tokens, counts, lengths

    def _kept(self, counts: np.ndarray, cell: np.ndarray, n_cells: int) -> np.ndarray:
        """Say which genes fit."""
        lengths = np.bincount(cell, minlength=n_cells)
        starts = lengths.cumsum() - lengths
        if self.keep_order:
            kept: np.ndarray = np.arange(cell.size) - starts[cell] < self.longest
            return kept
        kept = np.ones(cell.size, dtype=bool)
        for row in np.flatnonzero(lengths > self.longest):
            of_cell = slice(starts[row], starts[row] + lengths[row])
            kept[of_cell][np.argsort(-counts[of_cell], kind="stable")[self.longest :]] = False
        return kept

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, ready for JSON."""
        return {
            **super().to_dict(),
            "obs_columns": list(self.obs_columns),
            "clip_counts": self.clip_counts,
            "scale": self.scale,
            "keep_order": self.keep_order,
            "fill_id": self.fill_id,
        }


def _tokens_of(vocabulary: GeneVocabulary, column: str) -> dict[str, int]:
    prefix = f"{column}="
    tokens = {name.removeprefix(prefix): i for name, i in vocabulary.special_tokens.items() if name.startswith(prefix)}
    if "unknown" not in tokens:
        msg = f"The vocabulary has no special token '{prefix}unknown', which obs_columns={[column]!r} needs."
        raise ValueError(msg)
    return tokens


def _refuse_unknown(gene_ids: np.ndarray, vocabulary: GeneVocabulary) -> None:
    if gene_ids.dtype.kind not in "iu":
        return  # told below, with the shape
    wrong = (gene_ids >= 0) & ~np.isin(gene_ids, vocabulary.token_ids)
    if wrong.any():
        msg = (
            f"gene_ids holds {int(gene_ids[wrong][0])!r}, which is no gene of {vocabulary!r}. Pass the token_ids of "
            "`sfm.genes.align_genes(names, vocabulary)`, -1 where a gene is unknown."
        )
        raise ValueError(msg)
