"""Labels of samples: a second pooling, of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from sfm.nn import CellForSequenceClassification

if TYPE_CHECKING:
    from collections.abc import Callable

    from sfm.nn import CellConfig

Cells = dict[str, torch.Tensor]

KINDS = ["mean", "max", "attention"]
INDEX = torch.tensor([0, 2, 0, 1, 2, 2, 1, 0])


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, make_config: Callable[..., CellConfig]) -> CellForSequenceClassification:
    torch.manual_seed(0)
    settings = {"num_labels": 2, "sample_pooling": request.param, "initializer_range": 1.0}
    return CellForSequenceClassification(make_config(**settings)).eval()


@pytest.fixture
def vectors() -> torch.Tensor:
    return torch.randn(8, 16, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_weights_sum_to_one_per_sample(model: CellForSequenceClassification, vectors: torch.Tensor) -> None:
    pooled, weights = model.pool_samples(vectors, INDEX)
    assert pooled.shape == (3, 16)
    assert weights.shape == (8,)
    assert (weights >= 0).all()
    totals = torch.zeros(3).index_add(0, INDEX, weights)
    torch.testing.assert_close(totals, torch.ones(3))


@torch.no_grad()
def test_values(model: CellForSequenceClassification, vectors: torch.Tensor) -> None:
    pooled, weights = model.pool_samples(vectors, INDEX)
    for sample in range(3):
        own = INDEX.eq(sample)
        match model.config.sample_pooling:
            case "mean":
                expected = vectors[own].mean(dim=0)
            case "max":
                expected = vectors[own].amax(dim=0)
                shares = (vectors[own] == expected).float().mean(dim=1)
                torch.testing.assert_close(weights[own], shares)
            case _:
                head = model.head.sample_pooling
                gated = torch.tanh(head.content(vectors[own])) * torch.sigmoid(head.gate(vectors[own]))
                attention = head.score(gated).softmax(dim=0)  # (cells of the sample, 1)
                expected = (attention * vectors[own]).sum(dim=0)
                torch.testing.assert_close(weights[own], attention.squeeze(1))
                assert weights[own].max() > 1.5 * weights[own].min(), "the cells are told apart"
        torch.testing.assert_close(pooled[sample], expected)


@torch.no_grad()
def test_the_order_of_cells_does_not_matter(model: CellForSequenceClassification, vectors: torch.Tensor) -> None:
    pooled, weights = model.pool_samples(vectors, INDEX)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(2))
    shuffled, shuffled_weights = model.pool_samples(vectors[order], INDEX[order])
    torch.testing.assert_close(shuffled, pooled, atol=1e-6, rtol=0)
    torch.testing.assert_close(shuffled_weights, weights[order], atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_sample_depends_on_its_own_cells_alone(model: CellForSequenceClassification, vectors: torch.Tensor) -> None:
    pooled, weights = model.pool_samples(vectors, INDEX)
    own = INDEX == 2
    alone, alone_weights = model.pool_samples(vectors[own], torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(alone[0], pooled[2], atol=1e-6, rtol=0)
    torch.testing.assert_close(alone_weights, weights[own], atol=1e-6, rtol=0)
    others = torch.where(own.unsqueeze(1), vectors, 100 * vectors)
    torch.testing.assert_close(model.pool_samples(others, INDEX)[0][2], pooled[2], atol=1e-6, rtol=0)


@torch.no_grad()
def test_equal_cells_count_the_same(model: CellForSequenceClassification) -> None:
    pooled, weights = model.pool_samples(torch.full((3, 16), 0.3), torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(weights, torch.full((3,), 1 / 3))
    torch.testing.assert_close(pooled, torch.full((1, 16), 0.3))


@torch.no_grad()
def test_a_sample_without_cells_is_zero(model: CellForSequenceClassification, vectors: torch.Tensor) -> None:
    pooled, _ = model.pool_samples(vectors, INDEX * 2, n_samples=6)
    assert pooled.shape == (6, 16)
    assert (pooled[[1, 3, 5]] == 0).all()
    torch.testing.assert_close(pooled[[0, 2, 4]], model.pool_samples(vectors, INDEX)[0])


def test_samples_are_labelled(model: CellForSequenceClassification, cells: Cells) -> None:
    inputs = {key: cells[key] for key in ("input_ids", "attention_mask")}
    index = torch.tensor([1, 0, 1, 0])
    output = model(**inputs, labels=torch.tensor([1, 0]), sample_index=index)
    assert output.logits.shape == output.probabilities.shape == (2, 2)
    assert output.cell_weights.shape == (4,)
    pooled, weights = model.pool_samples(model.encode(**inputs), index)
    torch.testing.assert_close(output.logits, model.output_layer(model.features(pooled)).logits)
    torch.testing.assert_close(output.cell_weights, weights)
    features = model.forward_tokens(**inputs, sample_index=index)
    torch.testing.assert_close(features, model.features(pooled))
    output.loss.backward()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters() if weight.grad is not None)


@torch.no_grad()
def test_scores_far_apart_do_not_overflow(make_config: Callable[..., CellConfig], vectors: torch.Tensor) -> None:
    model = CellForSequenceClassification(make_config(sample_pooling="attention")).eval()
    model.head.sample_pooling.score.weight.fill_(1e4)
    pooled, weights = model.pool_samples(vectors * 100, INDEX)
    assert torch.isfinite(pooled).all()
    assert torch.isfinite(weights).all()


def test_models_of_cells_refuse_samples(make_config: Callable[..., CellConfig], vectors: torch.Tensor) -> None:
    model = CellForSequenceClassification(make_config())
    with pytest.raises(ValueError, match="this model labels cells.*sample_pooling='attention'"):
        model.pool_samples(vectors, INDEX)


@pytest.mark.parametrize("index", [[0, 1], [-1, 0, 0, 1, 1, 2, 2, 2], [[0, 1, 1, 0, 0, 1, 1, 2]]])
def test_each_cell_belongs_to_a_sample(
    model: CellForSequenceClassification, vectors: torch.Tensor, index: list[int]
) -> None:
    with pytest.raises(ValueError, match="must have a number from 0 upwards for each of 8 cells"):
        model.pool_samples(vectors, torch.tensor(index))
