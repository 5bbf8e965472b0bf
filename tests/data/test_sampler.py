from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfm.data._sampler import BucketSampler, length_sorted_minibatches

lengths_of_cells = st.lists(st.integers(0, 300), min_size=1, max_size=200).map(np.array)


@given(lengths_of_cells, st.integers(1, 40), st.integers(1, 500))
def test_inference_sees_each_cell_once_within_the_limits(lengths: np.ndarray, max_cells: int, max_tokens: int) -> None:
    minibatches = length_sorted_minibatches(lengths, max_cells=max_cells, max_tokens=max_tokens)
    assert sorted(np.concatenate(minibatches)) == list(range(len(lengths)))
    for rows in minibatches:
        assert len(rows) <= max_cells
        assert len(rows) == 1 or len(rows) * lengths[rows].max() <= max_tokens


@given(lengths_of_cells, st.integers(1, 40), st.booleans())
def test_each_cell_once_per_epoch(lengths: np.ndarray, batch_size: int, shuffle: bool) -> None:
    sampler = BucketSampler(lengths, batch_size, shuffle=shuffle)
    minibatches = list(sampler)
    assert len(minibatches) == len(sampler)
    assert sorted(sum(minibatches, [])) == list(range(len(lengths)))


@given(lengths_of_cells, st.integers(1, 40))
def test_drop_last_leaves_full_minibatches(lengths: np.ndarray, batch_size: int) -> None:
    minibatches = list(BucketSampler(lengths, batch_size, drop_last=True))
    assert [len(rows) for rows in minibatches] == [batch_size] * (len(lengths) // batch_size)


@pytest.mark.parametrize("n_cells", [1, 7, 64, 101])
@pytest.mark.parametrize("replicas", [2, 3])
def test_replicas_share_the_cells(n_cells: int, replicas: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 100, n_cells)
    samplers = [BucketSampler(lengths, 8) for _ in range(replicas)]
    for rank, sampler in enumerate(samplers):
        sampler.num_replicas, sampler.rank = replicas, rank
    parts = [list(sampler) for sampler in samplers]
    assert len({len(part) for part in parts}) == 1
    rows = [row for part in parts for minibatch in part for row in minibatch]
    assert set(rows) == set(range(n_cells))
    assert len(rows) - n_cells < 8 * replicas


def test_epochs_differ_and_repeat() -> None:
    sampler = BucketSampler(np.arange(100), 8, seed=1)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    sampler.set_epoch(0)
    assert first != second
    assert list(sampler) == first


def test_minibatches_hold_cells_of_similar_length() -> None:
    lengths = np.random.default_rng(0).lognormal(6, 0.6, 5000).astype(int)
    minibatches = list(BucketSampler(lengths, 32))
    padded = sum(lengths[rows].max() * len(rows) for rows in minibatches)
    assert padded < 1.1 * lengths.sum()
