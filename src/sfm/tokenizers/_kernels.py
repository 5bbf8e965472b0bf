"""Compiled loops that order the genes of cells."""

from __future__ import annotations

import numba
import numpy as np

from sfm.tokenizers._bits import read_bits, set_bit
from sfm.tokenizers._sort import sort_rest
from sfm.tokenizers._table import ABSENT, WIDTH

_ABSENT = np.uint32(ABSENT)


@numba.njit(cache=True, nogil=True)
def largest_counts(
    data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, column_place: np.ndarray, largest: np.ndarray
) -> None:
    """Raise `largest` to the largest count of each gene."""
    for i in range(indptr[-1]):
        place = column_place[indices[i]]
        if place >= 0 and largest[place] < data[i] < 2**31:
            largest[place] = np.int64(data[i])


@numba.njit(cache=True, nogil=True)
def is_canonical(indices: np.ndarray, indptr: np.ndarray) -> bool:
    """Whether the columns of every row rise strictly."""
    before, after = indices[:-1], indices[1:]
    falls = 0
    for i in range(after.size):
        falls += before[i] >= after[i]
    # A fall from one row to the next is no fault.
    for row in range(1, indptr.size - 1):
        start = indptr[row]
        if 0 < start < indptr[row + 1]:
            falls -= indices[start - 1] >= indices[start]
    return falls == 0


@numba.njit(cache=True, nogil=True)
def rank_row(
    data: np.ndarray,
    indices: np.ndarray,
    common_ranks: np.ndarray,
    bits: np.ndarray,
    others: np.ndarray,
) -> int:
    """Put the ranks of small whole counts into the bitmap; list the places of all other counts."""
    n_others = 0
    n_columns = np.uint64(common_ranks.size // WIDTH)
    for i in range(data.size):
        count = data[i]
        small = count if 0 <= count < WIDTH else 0
        whole = np.int32(small)
        rank = common_ranks[np.uint64(whole) * n_columns + np.uint64(indices[i])]
        if (whole == count) & (rank != _ABSENT):
            set_bit(bits, rank)
        else:
            others[n_others] = i
            n_others += 1
    return n_others


@numba.njit(cache=True, nogil=True)
def rank_others(  # noqa: PLR0913, PLR0917
    data: np.ndarray,
    indices: np.ndarray,
    others: np.ndarray,
    column_token: np.ndarray,
    column_divisor: np.ndarray,
    column_slot: np.ndarray,
    ranks: np.ndarray,
    bits: np.ndarray,
    rest_scores: np.ndarray,
    rest_counts: np.ndarray,
    rest_tokens: np.ndarray,
) -> int:
    """Do the same for counts that the large table has; write the rest in order. Return -1 where it is no count."""
    n_rest = 0
    for i in others:
        column, count = indices[i], data[i]
        token = column_token[column]
        if count == 0 or token < 0:
            continue
        if not (count > 0 and count < np.inf):
            return -1
        if count <= column_slot[column, 1] and np.int32(count) == count:
            set_bit(bits, ranks[column_slot[column, 0] + np.int32(count)])
            continue
        rest_scores[n_rest] = -(np.float64(count) / column_divisor[column])
        rest_counts[n_rest] = count
        rest_tokens[n_rest] = token
        n_rest += 1
    sort_rest(rest_scores[:n_rest], rest_counts[:n_rest], rest_tokens[:n_rest])
    return n_rest


@numba.njit(cache=True, nogil=True)
def merge(  # noqa: PLR0917
    keys: np.ndarray,
    table_tokens: np.ndarray,
    table_counts: np.ndarray,
    table_scores: np.ndarray,
    rest_scores: np.ndarray,
    rest_counts: np.ndarray,
    rest_tokens: np.ndarray,
    tokens: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Write the tokens that fit, and the counts that are asked for, of ranks and rest together."""
    key, rest, i = 0, 0, 0
    size = max(tokens.size, counts.size)
    while rest < rest_scores.size and i < size:
        rank = keys[key] if key < keys.size else np.uint32(0)
        if key < keys.size and (
            table_scores[rank] < rest_scores[rest]
            or (table_scores[rank] == rest_scores[rest] and table_tokens[rank] < rest_tokens[rest])
        ):
            token, count = table_tokens[rank], np.float64(table_counts[rank])
            key += 1
        else:
            token, count = rest_tokens[rest], rest_counts[rest]
            rest += 1
        if i < tokens.size:
            tokens[i] = token
        if i < counts.size:
            counts[i] = count
        i += 1
    keys = keys[key:]
    tokens = tokens[i:]
    for j in range(tokens.size):
        tokens[j] = table_tokens[keys[j]]
    counts = counts[i:]
    for j in range(counts.size):
        counts[j] = table_counts[keys[j]]


@numba.njit(cache=True, nogil=True)
def rank_rows(  # noqa: PLR0913, PLR0917
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    column_token: np.ndarray,
    column_divisor: np.ndarray,
    column_slot: np.ndarray,
    common_ranks: np.ndarray,
    ranks: np.ndarray,
    table_tokens: np.ndarray,
    table_counts: np.ndarray,
    table_scores: np.ndarray,
    bits: np.ndarray,
    keys: np.ndarray,
    others: np.ndarray,
    rest_scores: np.ndarray,
    rest_counts: np.ndarray,
    rest_tokens: np.ndarray,
    first_token: int,
    longest: int,
    tokens: np.ndarray,
    token_ptr: np.ndarray,
    counts: np.ndarray,
    count_ptr: np.ndarray,
) -> bool:
    """Write the first `longest` tokens of each row after `first_token`, and, unless `counts` is empty, all counts.

    Return whether all are counts.
    """
    out = token_ptr[0]
    seen = 0
    for row in range(indptr.size - 1):
        row_data = data[indptr[row] : indptr[row + 1]]
        row_indices = indices[indptr[row] : indptr[row + 1]]
        n_others = rank_row(row_data, row_indices, common_ranks, bits, others)
        n_rest = rank_others(
            row_data,
            row_indices,
            others[:n_others],
            column_token,
            column_divisor,
            column_slot,
            ranks,
            bits,
            rest_scores,
            rest_counts,
            rest_tokens,
        )
        n_keys = read_bits(bits, keys)
        if n_rest < 0:
            return False
        if first_token >= 0:
            tokens[out] = first_token
            out += 1
        found = n_keys + n_rest
        kept = min(found, longest)
        n_counts = found if counts.size else 0
        merge(
            keys[:n_keys],
            table_tokens,
            table_counts,
            table_scores,
            rest_scores[:n_rest],
            rest_counts,
            rest_tokens,
            tokens[out : out + kept],
            counts[seen : seen + n_counts],
        )
        out += kept
        seen += n_counts
        token_ptr[row + 1] = out
        count_ptr[row + 1] = seen
    return True


@numba.njit(cache=True, nogil=True)
def place_values(
    found: np.ndarray, found_ptr: np.ndarray, values: np.ndarray, token_ptr: np.ndarray, n_special: int
) -> None:
    """Copy the values of the tokens that were kept, after zeros for the special tokens."""
    for row in range(token_ptr.size - 1):
        start = token_ptr[row]
        values[start : start + n_special] = 0
        target = values[start + n_special : token_ptr[row + 1]]
        source = found[found_ptr[row] :]
        for i in range(target.size):
            target[i] = source[i]
