"""Every cell once per epoch, by blocks, over any number of processes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfm.data._block_sampler import BlockSampler
from sfm.data._block_split import BlockSplit, block_bounds

sizes_of_files = st.lists(st.integers(1, 60), min_size=1, max_size=5)
shares = st.sampled_from([0.0, 0.1, 0.5])


@st.composite
def splits(draw: st.DrawFn) -> BlockSplit:
    sizes = draw(sizes_of_files)
    usable = None
    if draw(st.booleans()):
        usable = np.random.default_rng(draw(st.integers(0, 99))).random(sum(sizes)) < 0.8
    bounds = block_bounds(sizes, draw(st.integers(1, 30)))
    by = draw(st.sampled_from(["cells", "blocks"]))
    return BlockSplit(bounds, validation_size=draw(shares), by=by, seed=draw(st.integers(0, 9)), usable=usable)


def all_rows(split: BlockSplit, part: str) -> list[int]:
    return np.concatenate([split.rows(block, part) for block in range(len(split))]).tolist()


def minibatches(sampler: BlockSampler, lengths: np.ndarray) -> list[list[int]]:
    return [pool.rows[positions].tolist() for pool in sampler for positions in pool.minibatches(lengths[pool.rows])]


def lengths_for(split: BlockSplit) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 100, split.bounds[-1])


def replicas_of(n: int, split: BlockSplit, **options: object) -> list[BlockSampler]:
    samplers = [BlockSampler(split, "train", **options) for _ in range(n)]
    for rank, sampler in enumerate(samplers):
        sampler.num_replicas, sampler.rank = n, rank
    return samplers


@given(sizes_of_files, st.integers(1, 30))
def test_blocks_cover_the_files_and_span_none(sizes: list[int], block_size: int) -> None:
    bounds = block_bounds(sizes, block_size)
    assert bounds[0] == 0
    assert bounds[-1] == sum(sizes)
    assert np.diff(bounds).min() > 0
    assert np.diff(bounds).max() <= block_size
    assert set(np.cumsum(sizes)) <= set(bounds)


@given(splits())
def test_cells_are_either_trained_on_or_held_out(split: BlockSplit) -> None:
    train, validation = all_rows(split, "train"), all_rows(split, "validation")
    expected = np.arange(split.bounds[-1]) if split.usable is None else np.flatnonzero(split.usable)
    assert sorted(train + validation) == expected.tolist()
    assert (len(train), len(validation)) == (split.sizes("train").sum(), split.sizes("validation").sum())


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_held_out_cells_are_the_share_of_the_whole(share: float) -> None:
    bounds = block_bounds([7] * 100, 4)
    split = BlockSplit(bounds, validation_size=share, by="cells", seed=0)
    assert split.sizes("validation").sum() == round(700 * share)
    by_block = BlockSplit(bounds, validation_size=share, by="blocks", seed=0)
    held_out = by_block.sizes("validation")
    assert set(held_out[held_out > 0] - np.diff(bounds)[held_out > 0]) == {0}
    assert abs(held_out.sum() - 700 * share) <= 4


def test_split_depends_on_the_seed() -> None:
    bounds = block_bounds([100], 10)
    first, same, other = (
        all_rows(BlockSplit(bounds, validation_size=0.2, by="cells", seed=seed), "train") for seed in (0, 0, 1)
    )
    assert first == same
    assert first != other


@given(
    splits(), st.integers(1, 9), st.integers(1, 40), st.integers(1, 3), st.booleans(), st.integers(0, 3), st.integers(0)
)
def test_each_cell_once_per_epoch_over_all_replicas(
    split: BlockSplit, batch_size: int, pool_size: int, n_replicas: int, shuffle: bool, epoch: int, skip: int
) -> None:
    lengths, expected = lengths_for(split), all_rows(split, "train")
    seen: list[int] = []
    counts = set()
    for sampler in replicas_of(n_replicas, split, batch_size=batch_size, pool_size=pool_size, shuffle=shuffle):
        sampler.set_epoch(epoch)
        if not expected:
            assert list(sampler) == []
            continue
        own = minibatches(sampler, lengths)
        assert len(own) == sampler.n_minibatches
        assert len(list(sampler)) == len(sampler)
        assert 1 <= min(map(len, own)) <= max(map(len, own)) <= batch_size
        sampler.skip = skip % (len(own) + 1)
        assert minibatches(sampler, lengths) == own[skip % (len(own) + 1) :]
        assert minibatches(sampler, lengths) == own  # only once
        counts.add(len(own))
        seen += sum(own, [])
    if expected:
        assert len(counts) == 1
        assert set(seen) == set(expected)
        if batch_size > 1 and len(expected) >= n_replicas:
            assert len(seen) == len(expected)


def test_epochs_differ_and_repeat() -> None:
    split = BlockSplit(block_bounds([200], 16), validation_size=0.1, by="cells", seed=0)
    sampler, lengths = BlockSampler(split, "train", batch_size=8, pool_size=64), lengths_for(split)
    first = minibatches(sampler, lengths)
    sampler.set_epoch(1)
    assert minibatches(sampler, lengths) != first
    sampler.set_epoch(0)
    assert minibatches(sampler, lengths) == first


def test_cells_of_different_blocks_are_mixed_and_of_similar_length() -> None:
    split = BlockSplit(block_bounds([40_000], 1000), validation_size=0.0, by="cells", seed=0)
    lengths = np.random.default_rng(0).lognormal(6, 0.6, 40_000).clip(max=2048).astype(int)
    rows = minibatches(BlockSampler(split, "train", batch_size=32, pool_size=8000), lengths)
    padded = sum(lengths[minibatch].max() * len(minibatch) for minibatch in rows)
    assert padded < 1.1 * lengths.sum()
    blocks = [len(np.unique(np.array(minibatch) // 1000)) for minibatch in rows]
    assert np.mean(blocks) > 6  # of 8 in a pool


def test_pools_read_few_blocks() -> None:
    split = BlockSplit(block_bounds([1000, 1000], 100), validation_size=0.1, by="cells", seed=0)
    sampler = BlockSampler(split, "train", batch_size=9, pool_size=360)
    n_blocks = [len(np.unique(pool.rows // 100)) for pool in sampler]
    assert max(n_blocks) <= 5
    assert len(n_blocks) == len(sampler) == 5
