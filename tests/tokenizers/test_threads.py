"""Tokens do not depend on the number of threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import sparse

import sfm
from sfm.tokenizers import _rows
from sfm.tokenizers._threads import run_threads, thread_count

if TYPE_CHECKING:
    from collections.abc import Callable

    from sfm.tokenizers import Tokenizer


@pytest.fixture
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a few cells, so that thirty cells are many runs."""
    monkeypatch.setattr(_rows, "_RUN", 40)
    monkeypatch.setattr(_rows, "_DENSE_RUN", 120)


@pytest.mark.usefixtures("short_runs")
@pytest.mark.parametrize("max_length", [2, 5, 64])
def test_tokens_do_not_depend_on_threads(
    monkeypatch: pytest.MonkeyPatch,
    tokenizer_class: type[Tokenizer],
    vocabulary: sfm.GeneVocabulary,
    counts: np.ndarray,
    as_array: Callable[[np.ndarray], object],
    max_length: int,
) -> None:
    tokenizer = tokenizer_class(vocabulary, max_length=max_length)
    gene_ids = vocabulary.token_ids.copy()
    gene_ids[::3] = -1  # unknown genes leave gaps between runs
    results = []
    for n_threads in (1, 3):
        monkeypatch.setattr("sfm.tokenizers._ranking.thread_count", lambda n=n_threads: n)
        results.append(tokenizer(as_array(counts), gene_ids))
    alone, together = results
    assert np.array_equal(alone.input_ids, together.input_ids)
    assert np.array_equal(alone.indptr, together.indptr)
    assert (alone.values is None) == (together.values is None)
    if alone.values is not None and together.values is not None:
        assert np.array_equal(alone.values, together.values)


@pytest.mark.usefixtures("short_runs")
def test_the_first_wrong_count_is_told(
    monkeypatch: pytest.MonkeyPatch, vocabulary: sfm.GeneVocabulary, counts: np.ndarray
) -> None:
    monkeypatch.setattr("sfm.tokenizers._ranking.thread_count", lambda: 3)
    wrong = counts.copy()
    wrong[7, 1], wrong[25, 1] = -3, -5
    tokenizer = sfm.tokenizers.RankTokenizer(vocabulary)
    with pytest.raises(ValueError, match=r"counts holds -3\.0"):
        tokenizer(sparse.csr_matrix(wrong), vocabulary.token_ids)


@pytest.mark.parametrize(("variable", "most"), [("1", 1), ("1,4", 1), ("0", 1), ("many", None), ("", None)])
def test_omp_num_threads_is_obeyed(monkeypatch: pytest.MonkeyPatch, variable: str, most: int | None) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    free = thread_count()
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert thread_count() == (free if most is None else most)


def test_no_two_threads_share_working_memory() -> None:
    in_use: set[int] = set()
    done = []

    def work(scratch: int, i: int) -> None:
        assert scratch not in in_use
        in_use.add(scratch)
        np.linalg.eigvals(np.random.default_rng(i).random((30, 30)))  # releases the interpreter
        in_use.remove(scratch)
        done.append(i)

    run_threads(range(3), work, 50)
    assert sorted(done) == list(range(50))
