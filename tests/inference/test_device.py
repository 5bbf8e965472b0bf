"""Results come back to the rows they belong to, from any device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sfm.data import encode_cells
from sfm.datasets import toy_cells, toy_model
from sfm.inference import embed_tokens
from sfm.inference._device import DeviceResults, to_device
from sfm.inference._minibatches import MinibatchLimits
from sfm.inference._precision import choose_device

CPU = torch.device("cpu")


def test_results_of_each_minibatch_go_to_their_rows() -> None:
    results = DeviceResults(5, CPU)
    order = np.array([3, 0, 4, 1, 2])
    for rows in (order[:2], order[2:]):
        numbers = torch.from_numpy(rows)
        results.add(rows, (numbers[:, None].double(), numbers))
    matrix, numbers = results.arrays()
    assert matrix.dtype == numbers.dtype == np.float32
    assert np.array_equal(matrix[:, 0], np.arange(5))
    assert np.array_equal(numbers, np.arange(5))


def test_a_minibatch_stays_as_it_is() -> None:
    minibatch = {"input_ids": torch.tensor([[2, 3]]), "values": torch.tensor([[0.0, 1.5]])}
    moved = to_device(minibatch, CPU)
    assert moved.keys() == minibatch.keys()
    assert all(torch.equal(moved[name], tensor) for name, tensor in minibatch.items())


def test_unknown_devices_are_named() -> None:
    with pytest.raises(ValueError, match=r"Unknown device='gpu'\. Choose 'auto', 'cpu', 'cuda'"):
        choose_device("gpu")


@pytest.mark.parametrize("device", ["cuda:99", torch.device("cuda", 99)])
def test_devices_that_are_not_there_are_named(device: str | torch.device) -> None:
    with pytest.raises(ValueError, match=r"device='cuda:99' is not there: torch finds \d+ of type 'cuda'"):
        choose_device(device)


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps", "xpu"])
def test_auto_minibatches_hold_at_least_one_cell_and_stay_in_bounds(device: str) -> None:
    limits = MinibatchLimits.of("auto", torch.device(device))
    lengths = np.random.default_rng(0).integers(1, 5000, 300)
    minibatches = limits.split(lengths)
    assert np.array_equal(np.sort(np.concatenate(minibatches)), np.arange(300))
    assert all(len(rows) == 1 or len(rows) * lengths[rows].max() <= (limits.max_tokens or 0) for rows in minibatches)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("batch_size", ["auto", 7])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cuda_gives_what_the_cpu_gives(batch_size: int, precision: str) -> None:
    pretrained = toy_model()
    cells = encode_cells(toy_cells(60), pretrained.tokenizer, model_name="toy").cells
    cpu, cuda = (
        embed_tokens(pretrained.model, cells, pad_id=0, batch_size=batch_size, device=name, precision=chosen)
        for name, chosen in (("cpu", "fp32"), ("cuda", precision))
    )
    np.testing.assert_allclose(cuda, cpu, atol=1e-5 if precision == "fp32" else 5e-2, rtol=0)
