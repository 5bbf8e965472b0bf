"""The cost preview counts what it can, and estimates the rest from a probe."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import sfm
from sfm.data._stream import stream_cells
from sfm.datasets import toy_cells, toy_model
from sfm.inference._plan import EmbeddingPlan, plan_embedding
from sfm.inference._plan_memory import MemoryPeak
from sfm.inference._plan_text import as_bytes, as_duration
from sfm.tokenizers import TokenizedCells

if TYPE_CHECKING:
    import torch

    from sfm.checkpoints import PretrainedCells
    from sfm.data._stream import CellStream


@pytest.fixture(scope="module")
def model() -> PretrainedCells:
    return toy_model(max_length=64)


def stream_of(n_cells: int, model: PretrainedCells) -> CellStream:
    return stream_cells(toy_cells(n_cells), model.tokenizer, model_name="The model")


def tokens_of(n_cells: int, model: PretrainedCells) -> TokenizedCells:
    return TokenizedCells.concatenate([cells for _, cells in stream_of(n_cells, model).windows()])


class WaitingModel:
    """Takes a time that grows with the tokens of a minibatch, padding included."""

    def __init__(self, seconds_per_token: float) -> None:
        self.seconds_per_token = seconds_per_token

    def forward(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return input_ids

    def encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> torch.Tensor:
        time.sleep(self.seconds_per_token * input_ids.numel())
        return attention_mask.sum(1, keepdim=True).float()


def test_small_data_are_counted_exactly(model: PretrainedCells) -> None:
    plan = plan_embedding(model, stream_of(60, model))
    tokens = tokens_of(60, model)
    assert plan.is_exact
    assert (plan.n_cells, plan.n_tokens, plan.n_dims) == (60, tokens.input_ids.size, 16)
    assert plan.output_bytes == 60 * 16 * 4
    assert (plan.model, plan.device, plan.precision) == (model.name, "cpu", "fp32")


def test_large_data_are_estimated_from_three_windows(model: PretrainedCells, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sfm.settings, "window_size", 20)
    plan = plan_embedding(model, stream_of(210, model))
    assert not plan.is_exact
    assert plan.n_cells == 210
    assert plan.n_tokens == pytest.approx(tokens_of(210, model).input_ids.size, rel=0.1)


@pytest.mark.parametrize("batch_size", ["auto", 4])
def test_time_is_that_of_all_minibatches(model: PretrainedCells, batch_size: Any) -> None:
    cells = tokens_of(200, model)
    waiting = replace(model, model=WaitingModel(5e-5))
    plan = plan_embedding(waiting, cells, batch_size=batch_size)
    assert plan.seconds_forward == pytest.approx(5e-5 * cells.input_ids.size, rel=0.5)
    assert plan.seconds >= plan.seconds_forward


def test_minibatches_are_those_that_run(model: PretrainedCells) -> None:
    plan = plan_embedding(model, tokens_of(90, model), batch_size=20)
    assert plan.n_minibatches == 5
    assert plan.tokens_per_minibatch == 20 * 64


def test_vectors_count_as_memory_if_they_are_held(model: PretrainedCells) -> None:
    cells = tokens_of(60, model)
    plans = [plan_embedding(model, cells, in_memory=held) for held in (False, True)]
    assert all(plan.peak_memory > 50e6 for plan in plans)
    assert all(plan.device_memory is None for plan in plans)


def test_memory_peak_sees_what_was_freed_again() -> None:
    with MemoryPeak() as memory:
        block = np.ones(8_000_000)
        time.sleep(0.05)
        del block
    assert 50e6 < memory.extra < 90e6


def test_modes_of_the_model_are_restored(model: PretrainedCells) -> None:
    model.model.train()
    plan_embedding(model, tokens_of(20, model))
    assert model.model.training
    model.model.eval()


def test_gates_raise_as_they_do_for_the_run(model: PretrainedCells) -> None:
    adata = toy_cells(20)
    adata.X.data[:] += 0.5
    with pytest.raises(ValueError, match="raw counts are needed"):
        plan_embedding(model, stream_cells(adata, model.tokenizer, model_name="The model"))


def test_text_names_every_cost() -> None:
    plan = EmbeddingPlan(
        model="m",
        device="cuda",
        precision="bf16",
        n_cells=1_000_000,
        n_tokens=1_500_000_000,
        is_exact=False,
        n_dims=512,
        seconds_tokenizing=20.0,
        seconds_forward=7000.0,
        seconds=7020.0,
        peak_memory=2_100_000_000,
        device_memory=9_000_000_000,
        n_minibatches=12_000,
        tokens_per_minibatch=131_072,
        output_bytes=2_048_000_000,
    )
    assert str(plan).splitlines() == [
        "m on cuda (bf16)",
        "  cells          1,000,000",
        "  tokens         about 1,500,000,000 (1,500 per cell)",
        "  time           about 1 h 57 min (20 s reading and tokenizing, 1 h 56 min in the model)",
        "  peak memory    about 2.1 GB",
        "  minibatches    about 12,000 of up to 131,072 tokens",
        "  vectors        1,000,000 x 512 float32, 2.05 GB",
        "  device memory  about 9 GB",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.6, "1 min"), (61, "1 min 1 s"), (7200, "2 h"), (90000, "1 d 1 h")],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert as_duration(seconds) == text


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (6400, "6.4 KB"), (1.26e6, "1.26 MB"), (2.5e12, "2,500 GB")],
)
def test_sizes_have_a_unit(n_bytes: float, text: str) -> None:
    assert as_bytes(n_bytes) == text
