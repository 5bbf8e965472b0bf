"""Ordering the genes of many cells: from counts of any array type to tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from sfm.tokenizers._bits import SLACK, empty_bits
from sfm.tokenizers._cells import TokenizedCells
from sfm.tokenizers._kernels import is_canonical, largest_counts, place_values, rank_rows
from sfm.tokenizers._output import TokenOutput
from sfm.tokenizers._rows import CountRows, Rows, refuse_not_counts
from sfm.tokenizers._table import RankTable, common_ranks, make_table
from sfm.tokenizers._threads import run_threads, thread_count

if TYPE_CHECKING:
    from sfm.tokenizers._base import Tokenizer

# The table may cost a share of the sorting that it saves.
_COUNTS_PER_PAIR = 16
_MIN_PAIRS = 1 << 16
_SAMPLED_ROWS = 512


def tokenize_counts(tokenizer: Tokenizer, counts: Any, gene_ids: np.ndarray) -> TokenizedCells:
    """Do the work of :meth:`Tokenizer.__call__`."""
    gene_ids = np.asarray(gene_ids)
    return _Ranking(tokenizer, CountRows.of(counts, gene_ids), _Genes.of(tokenizer, gene_ids)).run()


@dataclass(frozen=True)
class _Genes:
    """The genes present, by ascending token, and for each column the place of its gene among them, or -1."""

    tokens: np.ndarray
    divisors: np.ndarray
    column_place: np.ndarray

    @classmethod
    def of(cls, tokenizer: Tokenizer, gene_ids: np.ndarray) -> Self:
        vocabulary = tokenizer.vocabulary
        row_of_token = np.full(vocabulary.size, -1, dtype=np.int64)
        row_of_token[vocabulary.token_ids] = np.arange(vocabulary.token_ids.size)
        known = gene_ids >= 0
        wrong = known & (gene_ids >= vocabulary.size)
        wrong[known & ~wrong] = row_of_token[gene_ids[known & ~wrong]] < 0
        if wrong.any():
            msg = (
                f"gene_ids holds {int(gene_ids[wrong][0])!r}, which is no gene of {vocabulary!r}. Pass the token_ids "
                "of `sfm.genes.align_genes(names, vocabulary)`, -1 where a gene is unknown."
            )
            raise ValueError(msg)
        present = np.zeros(vocabulary.size, dtype=bool)
        present[gene_ids[known]] = True
        tokens = np.flatnonzero(present).astype(np.int32)
        column_place = np.full(gene_ids.size, -1, dtype=np.int32)
        column_place[known] = (np.cumsum(present) - 1)[gene_ids[known]]
        divisors = tokenizer.gene_divisors()
        by_gene = np.ones(tokens.size) if divisors is None else divisors[row_of_token[tokens]]
        return cls(tokens, by_gene, column_place)

    @property
    def shared(self) -> bool:
        """Whether several columns are one gene."""
        return bool(np.count_nonzero(self.column_place >= 0) > self.tokens.size)


class _Lookup:
    """What the kernel looks up by column."""

    def __init__(self, genes: _Genes, table: RankTable, column_place: np.ndarray) -> None:
        # -1, for unknown columns, is the last entry.
        self.tokens = np.append(genes.tokens, np.int32(-1))[column_place]
        self.divisors = np.append(genes.divisors, 1.0)[column_place]
        slots = np.stack([table.offsets, table.limits], axis=1)
        self.slots = np.append(slots, np.zeros((1, 2), dtype=np.int32), axis=0)[column_place]
        self.common_ranks = common_ranks(table, column_place)


class _Scratch:
    """Working memory of the kernel for one row at a time."""

    def __init__(self, n_pairs: int, row_nnz: int) -> None:
        self.bits = empty_bits(n_pairs)
        self.keys = np.empty(row_nnz + SLACK, dtype=np.uint32)
        self.others = np.empty(row_nnz, dtype=np.int32)
        self.rest_scores = np.empty(row_nnz)
        self.rest_counts = np.empty(row_nnz)
        self.rest_tokens = np.empty(row_nnz, dtype=np.int32)


class _Ranking:
    """One call of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer, rows: CountRows, genes: _Genes) -> None:
        self.tokenizer = tokenizer
        self.rows = rows
        self.genes = genes
        self.n_special = int(tokenizer.prepend_cls)
        cls_id = tokenizer.vocabulary.cls_id
        self.first_token = cls_id if tokenizer.prepend_cls and cls_id is not None else -1
        self.longest = tokenizer.max_length - self.n_special
        self.table = self._make_table()
        self.by_column = _Lookup(genes, self.table, genes.column_place)

    @cached_property
    def by_gene(self) -> _Lookup:
        """The lookup for columns that were summed to one per gene."""
        return _Lookup(self.genes, self.table, np.arange(self.genes.tokens.size))

    def _make_table(self) -> RankTable:
        largest = np.zeros(self.genes.tokens.size, dtype=np.int64)
        for sample in self.rows.samples(_SAMPLED_ROWS):
            largest_counts(sample.data, sample.indices, sample.indptr, self.genes.column_place, largest)
        budget = max(self.rows.nnz // _COUNTS_PER_PAIR, _MIN_PAIRS)
        return make_table(self.genes.tokens, self.genes.divisors, largest, budget=budget)

    def run(self) -> TokenizedCells:
        tokenizer, rows = self.tokenizer, self.rows
        runs = list(rows.runs())
        bounds = [rows.bound(run, self.longest) + self.n_special * (run.stop - run.start) for run in runs]
        output = TokenOutput(rows.n_rows, sum(bounds), has_values=tokenizer.has_values)
        n_threads = min(thread_count(), len(runs))
        if n_threads > 1:
            starts = np.cumsum([0, *bounds]).tolist()
            scratches = [self._scratch() for _ in range(n_threads)]
            run_threads(scratches, lambda scratch, i: self._tokenize(runs[i], scratch, output, starts[i]), len(runs))
            output.close_gaps(runs, starts)
        else:
            scratch, start = self._scratch(), 0
            for run in runs:
                start = self._tokenize(run, scratch, output, start)
        output.trim()
        return TokenizedCells(
            output.tokens,
            output.indptr,
            values=output.values,
            max_length=tokenizer.max_length,
            metadata=tokenizer.to_dict(),
        )

    def _scratch(self) -> _Scratch:
        return _Scratch(self.table.ranks.size, self.rows.longest)

    def _tokenize(self, rows: slice, scratch: _Scratch, output: TokenOutput, start: int) -> int:
        """Write the tokens of some rows from `start` on, and return where they end."""
        run, lookup = self.rows.rows(rows), self.by_column
        if self.genes.shared or not is_canonical(run.indices, run.indptr):
            run = run.summed(self.genes.column_place, self.genes.tokens.size)
            lookup = self.by_gene
        token_ptr, count_ptr = np.full(run.n_rows + 1, start), np.zeros(run.n_rows + 1, dtype=np.int64)
        counts = np.empty(run.data.size if output.values is not None else 0)
        if not self._rank(run, lookup, scratch, output.tokens, token_ptr, counts, count_ptr):
            refuse_not_counts(run.data[lookup.tokens[run.indices] >= 0])
        if output.values is not None:
            found = self.tokenizer.cell_values(counts[: count_ptr[-1]], count_ptr)
            place_values(found, count_ptr, output.values, token_ptr, self.n_special)
        output.lengths[rows] = np.diff(token_ptr)
        return int(token_ptr[-1])

    def _rank(  # noqa: PLR0917
        self,
        run: Rows,
        lookup: _Lookup,
        scratch: _Scratch,
        tokens: np.ndarray,
        token_ptr: np.ndarray,
        counts: np.ndarray,
        count_ptr: np.ndarray,
    ) -> bool:
        table = self.table
        all_counts: bool = rank_rows(
            run.data,
            run.indices,
            run.indptr,
            lookup.tokens,
            lookup.divisors,
            lookup.slots,
            lookup.common_ranks,
            table.ranks,
            table.tokens,
            table.counts,
            table.scores,
            scratch.bits,
            scratch.keys,
            scratch.others,
            scratch.rest_scores,
            scratch.rest_counts,
            scratch.rest_tokens,
            self.first_token,
            self.longest,
            tokens,
            token_ptr,
            counts,
            count_ptr,
        )
        return all_counts
