"""Minibatches that do not fit are halved; what does not fit alone is an error. Memory runs out for real here."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tqdm import tqdm

from sfm.inference import embed_tokens
from sfm.inference._minibatches import MinibatchLimits
from sfm.tokenizers import TokenizedCells

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

CPU = torch.device("cpu")
MORE_THAN_THERE_IS = 2**50


def from_torch() -> None:
    torch.empty(MORE_THAN_THERE_IS)


def from_numpy() -> None:
    np.empty(MORE_THAN_THERE_IS)


class Hungry(torch.nn.Module):
    """The sum of a cell's tokens, in no memory at all up to some number of tokens, and in too much beyond it."""

    def __init__(self, most_tokens: int, allocate: Callable[[], None] = from_torch) -> None:
        super().__init__()
        self.most_tokens = most_tokens
        self.allocate = allocate
        self.sizes: list[int] = []

    def encode(self, input_ids: Tensor, attention_mask: Tensor, values: Tensor | None = None, **_: Any) -> Tensor:
        if input_ids.numel() > self.most_tokens:
            self.allocate()
        self.sizes.append(len(input_ids))
        return (input_ids * attention_mask).sum(dim=1, keepdim=True)


@pytest.fixture
def cells() -> TokenizedCells:
    """Forty cells of 1 to 40 tokens, in random order."""
    rng = np.random.default_rng(0)
    lengths = rng.permutation(40) + 1
    indptr = np.concatenate(([0], np.cumsum(lengths)))
    return TokenizedCells(rng.integers(4, 100, indptr[-1]), indptr, max_length=40)


def sums(cells: TokenizedCells) -> np.ndarray:
    return np.add.reduceat(cells.input_ids, cells.indptr[:-1]).astype(np.float32)[:, None]


@pytest.mark.parametrize("allocate", [from_torch, from_numpy])
@pytest.mark.parametrize("batch_size", ["auto", 40, 7])
@pytest.mark.parametrize("most_tokens", [40, 100, 10_000])
def test_results_are_the_same_when_memory_is_short(
    cells: TokenizedCells, batch_size: Any, most_tokens: int, allocate: Callable[[], None]
) -> None:
    model = Hungry(most_tokens, allocate)
    vectors = embed_tokens(model, cells, pad_id=0, batch_size=batch_size, device="cpu")
    assert np.array_equal(vectors, sums(cells))
    assert sum(model.sizes) == len(cells)


def test_the_smaller_size_is_remembered(cells: TokenizedCells) -> None:
    limits = MinibatchLimits.of(40, CPU)
    model = Hungry(100)
    for _ in range(2):
        embed_tokens(model, cells, pad_id=0, device="cpu", limits=limits)
    first, second = model.sizes[: len(model.sizes) // 2], model.sizes[len(model.sizes) // 2 :]
    assert limits.max_cells == max(first) == 2
    assert first == second


def test_shortage_is_logged_once_for_each_halving(cells: TokenizedCells, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr("sfm.inference._loop.logg.info", lines.append)
    embed_tokens(Hungry(100), cells, pad_id=0, batch_size=16, device="cpu")
    assert lines == [
        f"memory was too short for {n} cells at a time; going on with at most {n // 2} cells" for n in (16, 8, 4)
    ]


def test_a_cell_that_does_not_fit_alone_is_an_error(cells: TokenizedCells) -> None:
    model = Hungry(39).train()
    before = torch.get_float32_matmul_precision()
    with pytest.raises(MemoryError, match=r"A cell of 40 tokens does not fit .* device 'cpu'.*max_length"):
        embed_tokens(model, cells, pad_id=0, device="cpu")
    assert model.training
    assert torch.get_float32_matmul_precision() == before
    assert not torch.is_inference_mode_enabled()


def test_other_errors_are_not_taken_for_it(cells: TokenizedCells) -> None:
    def fail() -> None:
        torch.ones(2) @ torch.ones(3)

    model = Hungry(100, fail)
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        embed_tokens(model, cells, pad_id=0, batch_size=8, device="cpu")
    assert model.sizes == []


def test_the_progress_bar_counts_every_cell_once(cells: TokenizedCells) -> None:
    with tqdm(total=2 * len(cells), file=StringIO()) as bar:
        for _ in range(2):
            embed_tokens(Hungry(100), cells, pad_id=0, device="cpu", progress=bar)
        assert bar.n == 2 * len(cells)
