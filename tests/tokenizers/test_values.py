from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import sfm
from sfm.tokenizers import BinTokenizer, ValueTokenizer


def one_cell(tokenizer_class: type[sfm.tokenizers.Tokenizer], counts: np.ndarray, **options: int) -> np.ndarray:
    """Values by column of a cell whose counts are all above zero."""
    vocabulary = sfm.GeneVocabulary([f"gene{i}" for i in range(counts.size)])
    tokenizer = tokenizer_class(vocabulary, prepend_cls=False, **options)
    cells = tokenizer(counts[None], vocabulary.token_ids)
    values = np.full(counts.size, np.nan)
    values[cells.input_ids - vocabulary.token_ids[0]] = cells.values
    return values


@pytest.mark.parametrize(
    ("counts", "bins"),
    [([3, 1, 2], [50, 1, 25]), ([1, 1, 1, 2, 5], [13, 13, 13, 37, 50]), ([4], [25]), ([2, 2], [25, 25])],
)
def test_worked_examples(counts: list[float], bins: list[int]) -> None:
    assert one_cell(BinTokenizer, np.array(counts, dtype=float)).tolist() == bins


counts_of_a_cell = arrays(
    np.float64, st.integers(1, 200), elements=st.sampled_from([1, 1, 1, 2, 3, 4, 7, 30, 0.5, 0.1, 1 / 3, 1e6])
)


@settings(max_examples=200, deadline=None)
@given(counts=counts_of_a_cell, n_bins=st.sampled_from([51, 51, 2, 3, 10]))
def test_bins_are_in_the_published_range(counts: np.ndarray, n_bins: int) -> None:
    bins = one_cell(BinTokenizer, counts, n_bins=n_bins)
    edges = np.quantile(counts, np.linspace(0, 1, n_bins - 1))
    left, right = np.digitize(counts, edges), np.digitize(counts, edges, right=True)
    assert (bins <= left).all()
    assert (bins >= np.minimum(right + 1, left)).all()
    assert np.array_equal(bins, (right + 1 + left) // 2)
    assert np.array_equal(bins[left - right <= 1], left[left - right <= 1])


def test_equal_counts_have_equal_bins_and_larger_ones_larger(counts: np.ndarray) -> None:
    vocabulary = sfm.GeneVocabulary([f"gene{i}" for i in range(counts.shape[1])])
    cells = BinTokenizer(vocabulary)(counts, vocabulary.token_ids)
    for i, row in enumerate(counts):
        cell = cells[[i]]
        assert cell.values[0] == 0
        ordered = row[cell.input_ids[1:] - vocabulary.token_ids[0]]
        bins = cell.values[1:]
        assert (np.diff(bins)[np.diff(ordered) == 0] == 0).all()
        assert (np.diff(bins) <= 0).all()
        assert bins.size == 0 or (bins.min() >= 1 and bins.max() <= 50)


@settings(max_examples=100, deadline=None)
@given(counts=counts_of_a_cell)
def test_log_normalised_values(counts: np.ndarray) -> None:
    values = one_cell(ValueTokenizer, counts)
    assert values == pytest.approx(np.log1p(counts / counts.sum() * 1e4), rel=1e-6)


@pytest.mark.parametrize("tokenizer_class", [BinTokenizer, ValueTokenizer])
def test_values_come_from_all_genes_of_the_cell(tokenizer_class: type[sfm.tokenizers.Tokenizer]) -> None:
    counts = np.random.default_rng(0).integers(1, 20, size=100).astype(float)
    full, cut = one_cell(tokenizer_class, counts), one_cell(tokenizer_class, counts, max_length=9)
    kept = ~np.isnan(cut)
    assert kept.sum() == 9
    assert np.array_equal(cut[kept], full[kept])


def test_too_few_bins() -> None:
    with pytest.raises(ValueError, match=r"n_bins=1 leaves no bin"):
        BinTokenizer(sfm.GeneVocabulary(["A"]), n_bins=1)
