"""Ranks of all likely pairs of gene and count, so that ordering a cell means sorting small integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Whole counts below this have their rank in a table by column, the first place to look.
WIDTH = 8
ABSENT = 2**32 - 1
# Largest count of a gene that is worth a place in the table, tried from left to right.
_CAPS = (1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1)


@dataclass(frozen=True)
class RankTable:
    """Ranks of counts 1 to `limits[gene]` of each gene; the pair of rank 0 comes first in any cell.

    The rank of a pair is `ranks[offsets[gene] + count]`; `tokens`, `counts` and `scores` are indexed by rank.
    """

    offsets: np.ndarray
    limits: np.ndarray
    ranks: np.ndarray
    tokens: np.ndarray
    counts: np.ndarray
    scores: np.ndarray


def make_table(tokens: np.ndarray, divisors: np.ndarray, largest: np.ndarray, *, budget: int) -> RankTable:
    """Rank the pairs of genes, given by ascending token, in at most `budget` pairs.

    `largest` has the largest count of each gene in a sample of cells.
    """
    limits = _limits(largest, budget)
    gene, count = _pairs(limits, np.argsort(divisors, kind="stable"))
    scores = -(count / divisors[gene])
    order = _order(scores, gene)
    gene, count = gene[order], count[order]
    offsets = np.cumsum(limits, dtype=np.int32) - limits - np.int32(1)
    ranks = np.empty(order.size, dtype=np.uint32)
    ranks[offsets[gene] + count] = np.arange(order.size, dtype=np.uint32)
    return RankTable(offsets, limits, ranks, tokens[gene], count, scores[order])


def common_ranks(table: RankTable, column_place: np.ndarray) -> np.ndarray:
    """Return the ranks of counts 0 to `WIDTH` - 1 of each column, `ABSENT` where there is none; flat.

    Count by count: most counts are ones, whose ranks are side by side then.
    """
    by_gene = np.full((WIDTH, table.limits.size + 1), ABSENT, dtype=np.uint32)
    for count in range(1, WIDTH):
        has = np.flatnonzero(table.limits >= count)
        by_gene[count, has] = table.ranks[table.offsets[has] + count]
    # The place of unknown columns is -1: the last one, where all are absent.
    flat: np.ndarray = by_gene[:, column_place].ravel()
    return flat


def _limits(largest: np.ndarray, budget: int) -> np.ndarray:
    """Leave room above what was seen in the sample, as far as the budget goes."""
    for cap in _CAPS:
        for wished in (largest + 1, np.maximum(largest, 1)):
            limits = np.minimum(wished, cap)
            if limits.sum() <= budget:
                chosen: np.ndarray = limits.astype(np.int32)
                return chosen
    return np.zeros(largest.size, dtype=np.int32)


def _pairs(limits: np.ndarray, by_divisor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return gene and count of all pairs by ascending count, then divisor, then token: long runs of rising score."""
    lengths = limits[by_divisor]
    gene = np.repeat(by_divisor.astype(np.int32), lengths)
    first = np.cumsum(lengths) - lengths
    count = (np.arange(1, gene.size + 1) - np.repeat(first, lengths)).astype(np.uint16)
    order = np.argsort(count, kind="stable")
    return gene[order], count[order]


def _order(scores: np.ndarray, gene: np.ndarray) -> np.ndarray:
    """Return the order of ascending scores, ties by gene."""
    order = np.argsort(scores, kind="stable")
    ascending = scores[order]
    differs = ascending[1:] != ascending[:-1]
    if np.all(differs | (gene[order[1:]] > gene[order[:-1]])):
        return order
    group = np.concatenate(([0], np.cumsum(differs)))
    return order[np.argsort((group << 32) | gene[order], kind="stable")]
