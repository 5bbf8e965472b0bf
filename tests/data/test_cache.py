"""Token caches: what was written is read, and nothing else is taken for a cache."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
import weakref
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sfm.data import encode_cells
from sfm.data._cache import TokenCache
from sfm.data._categories import Categories
from sfm.datasets import toy_cells, toy_model
from sfm.tokenizers import TokenizedCells, get_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sfm.tokenizers import Tokenizer

N = 50


def make(kind: str = "rank") -> tuple[Tokenizer, TokenizedCells]:
    tokenizer = toy_model(kind).tokenizer
    return tokenizer, encode_cells(toy_cells(N), tokenizer, model_name="toy").cells


def assert_same(found: TokenizedCells, expected: TokenizedCells) -> None:
    np.testing.assert_array_equal(found.input_ids, expected.input_ids)
    np.testing.assert_array_equal(found.indptr, expected.indptr)
    assert found.max_length == expected.max_length
    assert (found.values is None) == (expected.values is None)
    if expected.values is not None:
        np.testing.assert_array_equal(found.values, expected.values)


@pytest.fixture
def written(tmp_path: Path) -> TokenCache:
    tokenizer, cells = make()
    codes = {"label_index": np.arange(N, dtype=np.int8) % 3}
    names = {"label_index": Categories("cell_type", ("a", "b", "c"))}
    return TokenCache.write(tmp_path / "cache", [cells], tokenizer=tokenizer, columns=codes, categories=names)


@pytest.mark.parametrize("kind", ["rank", "bins", "values"])
@pytest.mark.parametrize("window", [1, 7, N])
def test_cells_come_back_as_they_were(kind: str, window: int, tmp_path: Path) -> None:
    tokenizer, cells = make(kind)
    windows = [(slice(i, i + window), cells[i : i + window]) for i in range(0, N, window)]
    cache = TokenCache.write(tmp_path / "cache", windows, tokenizer=tokenizer)
    rng = np.random.default_rng(0)
    assert_same(cache[:], cells)
    assert_same(cache[5:40:3], cells[5:40:3])
    for rows in (rng.permutation(N), [3, 3, -1], np.arange(N) % 2 == 0, []):
        assert_same(cache[rows], cells[rows])
    np.testing.assert_array_equal(cache.lengths, cells.lengths)
    assert len(cache) == N
    assert cache.tokenizer.params() == tokenizer.params() == cache.params()


def test_small_vocabularies_take_two_bytes_a_token(written: TokenCache) -> None:
    assert written.input_ids.dtype == np.uint16
    assert (written.path / "input_ids.npy").stat().st_size < 2 * written.input_ids.size + 256


def test_large_vocabularies_keep_all_their_ids(tmp_path: Path) -> None:
    import sfm

    vocabulary = sfm.GeneVocabulary(["a", "b"], token_ids=[70_000, 100_000])
    tokenizer = get_tokenizer("values")(vocabulary, max_length=8)
    cells = TokenizedCells(np.array([2, 70_000, 100_000]), np.array([0, 3]), values=np.array([0, 1, 2.5]), max_length=8)
    assert_same(TokenCache.write(tmp_path / "cache", [cells], tokenizer=tokenizer)[:], cells)


@pytest.mark.parametrize("lengths", [[0, 0], [0, 2, 0], []])
def test_cells_without_tokens_are_kept(lengths: list[int], tmp_path: Path) -> None:
    tokenizer, _ = make()
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    cells = TokenizedCells(np.arange(indptr[-1]) + 4, indptr, max_length=tokenizer.max_length)
    assert_same(TokenCache.write(tmp_path / "cache", [cells], tokenizer=tokenizer)[:], cells)


def test_columns_and_sources_come_back(tmp_path: Path) -> None:
    tokenizer, cells = make()
    columns = {"label_index": np.arange(N, dtype=np.int8) - 1, "weight": np.linspace(0, 1, N)}
    sources = [{"path": "a.h5ad", "n_obs": 20}, {"path": "b.h5ad", "n_obs": 30}]
    cache = TokenCache.write(
        tmp_path / "cache", [cells], tokenizer=tokenizer, columns=columns, sources=sources, settings={"layer": None}
    )
    for name, column in columns.items():
        np.testing.assert_array_equal(cache.columns[name], column)
        assert cache.columns[name].dtype == column.dtype
    assert cache.sources == sources
    assert cache.settings == {"layer": None}
    assert cache.place_of(22) == "row 2 of b.h5ad"
    assert cache.block_bounds(15).tolist() == [0, 15, 20, 35, 50]


def test_cache_can_be_pickled_without_its_cells(written: TokenCache) -> None:
    content = pickle.dumps(written)
    assert len(content) < 500
    assert_same(pickle.loads(content)[:], written[:])


def test_opening_reads_no_tokens(written: TokenCache) -> None:
    """The array is a view of the mapped file, which is what a worker process would not copy either."""
    base = TokenCache(written.path).input_ids.base
    while not isinstance(base, np.memmap) and base is not None:
        base = base.base
    assert isinstance(base, np.memmap)
    assert base.mode == "r"


def test_writing_holds_one_window_at_a_time(tmp_path: Path) -> None:
    tokenizer, cells = make()
    alive: list[weakref.ref[TokenizedCells]] = []

    def windows() -> Iterator[TokenizedCells]:
        for i in range(0, N, 5):
            assert sum(ref() is not None for ref in alive) <= 1
            window = TokenizedCells.concatenate([cells[i : i + 5], cells[:0]])
            alive.append(weakref.ref(window))
            yield window
            del window

    assert len(TokenCache.write(tmp_path / "cache", windows(), tokenizer=tokenizer)) == N


def test_failed_writing_leaves_nothing(tmp_path: Path) -> None:
    tokenizer, cells = make()

    def windows() -> Iterator[TokenizedCells]:
        yield cells
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TokenCache.write(tmp_path / "cache", windows(), tokenizer=tokenizer)
    assert list(tmp_path.iterdir()) == []


def test_existing_caches_are_replaced_only_when_asked(written: TokenCache, tmp_path: Path) -> None:
    tokenizer, cells = make()
    with pytest.raises(FileExistsError, match="Pass overwrite=True"):
        TokenCache.write(written.path, [cells[:3]], tokenizer=tokenizer)
    assert len(TokenCache(written.path)) == N
    assert len(TokenCache.write(written.path, [cells[:3]], tokenizer=tokenizer, overwrite=True)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_other_directories_are_never_replaced(tmp_path: Path) -> None:
    tokenizer, cells = make()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "final.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="is no token cache and is not replaced"):
        TokenCache.write(tmp_path / "thesis", [cells], tokenizer=tokenizer, overwrite=True)
    assert (tmp_path / "thesis" / "final.txt").exists()


def cut(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) - 8])

    return damage


def edit(**fields: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        description = json.loads((folder / "cache.json").read_text())
        (folder / "cache.json").write_text(json.dumps({**description, **fields}))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(cut("input_ids.npy"), "input_ids.npy.*cut short", id="tokens cut"),
        pytest.param(cut("indptr.npy"), "indptr.npy.*cut short", id="indptr cut"),
        pytest.param(cut("columns/label_index.npy"), "label_index.npy.*cut short", id="column cut"),
        pytest.param(cut("cache.json"), "cache.json.*is not JSON", id="description cut"),
        pytest.param(lambda folder: (folder / "indptr.npy").unlink(), "indptr.npy.*missing", id="file gone"),
        pytest.param(edit(n_tokens=5), "holds uint16 of shape", id="fewer tokens"),
        pytest.param(edit(version=99), "version 99.*Update sfm-tools", id="newer"),
        pytest.param(edit(format="parquet"), "describes something else", id="foreign"),
        pytest.param(edit(categories=3), "description .* is damaged", id="description damaged"),
    ],
)
def test_damaged_caches_are_refused(written: TokenCache, damage: Callable[[Path], None], message: str) -> None:
    damage(written.path)
    with pytest.raises(ValueError, match=message):
        TokenCache(written.path)


def test_missing_caches_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no 'cache.json'. `TokenCache.write` makes one"):
        TokenCache(tmp_path)


def test_another_vocabulary_is_refused(written: TokenCache) -> None:
    import sfm

    sfm.GeneVocabulary(["a", "b"]).save(written.path / "vocabulary.json")
    with pytest.raises(ValueError, match="is not the vocabulary of the tokens"):
        _ = TokenCache(written.path).tokenizer


def test_tokens_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    (rank, cells), (_, with_values) = make(), make("values")
    unknown = TokenizedCells(np.array([rank.vocabulary.size]), np.array([0, 1]), max_length=rank.max_length)
    for others in (with_values, unknown):
        with pytest.raises(ValueError, match="Pass the tokenizer that made them"):
            TokenCache.write(tmp_path / "cache", [cells, others], tokenizer=rank)
    with pytest.raises(ValueError, match="one number for each of the 50 cells"):
        TokenCache.write(tmp_path / "cache", [cells], tokenizer=rank, columns={"x": np.zeros(3)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rows", [[N], [-N - 1], [[1]], [0.5]])
def test_cells_that_are_not_there_are_refused(written: TokenCache, rows: list[object]) -> None:
    with pytest.raises(IndexError, match="out of range|indexed by"):
        written[rows]


# It reads what it writes from another cache, which needs no torch.
_SCRIPT = """
import os, signal
from sfm.data._cache import TokenCache
written = TokenCache({written!r})
def windows():
    yield written[:]
    os.kill(os.getpid(), signal.SIGKILL)
TokenCache.write({path!r}, windows(), tokenizer=written.tokenizer)
"""


@pytest.mark.slow
def test_a_killed_writer_leaves_no_cache(written: TokenCache, tmp_path: Path) -> None:
    path = tmp_path / "killed"
    script = _SCRIPT.format(written=str(tmp_path / "cache"), path=str(path))
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    assert len(TokenCache.write(path, [written[:]], tokenizer=written.tokenizer)) == N
