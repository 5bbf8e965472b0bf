"""The loss of classifiers: equal to torch's, defined on any minibatch, and additive over its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional as F

from sfm.nn import CellForSequenceClassification, CellForTokenClassification
from sfm.train._parts import loss_by_parts

if TYPE_CHECKING:
    from collections.abc import Callable

    from sfm.nn import CellConfig

Cells = dict[str, torch.Tensor]

WEIGHTS = [0.5, 3.0, 1.0]
LABELS = torch.tensor([0, 1, -100, 2])


@pytest.fixture
def tokens(cells: Cells) -> Cells:
    return {key: cells[key] for key in ("input_ids", "attention_mask")}


def classifier(config: CellConfig) -> CellForSequenceClassification:
    torch.manual_seed(0)
    return CellForSequenceClassification(config).eval()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@torch.no_grad()
def test_cross_entropy_is_that_of_torch(
    make_config: Callable[..., CellConfig], tokens: Cells, smoothing: float, weights: list[float] | None
) -> None:
    settings = {"num_labels": 3, "head_initializer": "xavier_uniform", "classifier_dropout": 0.0}
    model = classifier(make_config(label_smoothing=smoothing, label_weights=weights, **settings))
    output = model(**tokens, labels=LABELS)
    weight = None if weights is None else torch.tensor(weights)
    total = F.cross_entropy(output.logits, LABELS, weight, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(output.loss, total / 3)
    if weights is None:
        torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, LABELS, label_smoothing=smoothing))


@torch.no_grad()
def test_labels_of_which_several_apply_are_smoothed_and_weighted(
    make_config: Callable[..., CellConfig], tokens: Cells
) -> None:
    settings = {"num_labels": 3, "problem_type": "multi_label_classification"}
    model = classifier(make_config(label_smoothing=0.2, label_weights=WEIGHTS, **settings))
    labels = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [float("nan")] * 3, [0.0, 0.0, 0.0]])
    output = model(**tokens, labels=labels)
    known = [0, 1, 3]
    targets = labels[known] * 0.8 + 0.1
    losses = F.binary_cross_entropy_with_logits(output.logits[known], targets, reduction="none")
    torch.testing.assert_close(output.loss, (losses * torch.tensor(WEIGHTS)).mean())


@pytest.mark.parametrize("model_class", [CellForSequenceClassification, CellForTokenClassification])
def test_without_labels_the_loss_is_zero_and_has_a_gradient(
    make_config: Callable[..., CellConfig], tokens: Cells, model_class: type[CellForSequenceClassification]
) -> None:
    model = model_class(make_config(num_labels=3, label_smoothing=0.2, label_weights=WEIGHTS))
    shape = (4,) if model_class is CellForSequenceClassification else (4, 12)
    output = model(**tokens, labels=torch.full(shape, -100))
    assert output.loss == 0
    output.loss.backward()
    gradients = [weight.grad for weight in model.head.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


@pytest.mark.parametrize(
    "settings", [{}, {"label_weights": WEIGHTS}, {"label_weights": WEIGHTS, "label_smoothing": 0.1}]
)
def test_parts_of_a_minibatch_add_up(
    make_config: Callable[..., CellConfig], tokens: Cells, settings: dict[str, Any]
) -> None:
    """Loss and gradient are the same whether cells are computed together or a few at a time."""
    example = {key: tensor.repeat(3, 1) for key, tensor in tokens.items()}
    example["labels"] = torch.tensor([0, 1, -100, 2, 1, 1, 2, -100, -100, -100, 0, 2])
    n_targets = (example["labels"] != -100).long()
    results = []
    for max_tokens in (None, 24, 12):
        model = classifier(make_config(num_labels=3, head_initializer="xavier_uniform", **settings))
        loss = loss_by_parts(model, example, n_targets, max_tokens=max_tokens)
        loss.backward()
        results.append((loss.detach(), [weight.grad for weight in model.parameters()]))
    for loss, gradients in results[1:]:
        torch.testing.assert_close(loss, results[0][0])
        for gradient, expected in zip(gradients, results[0][1], strict=True):
            torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("encoder", ["lstm", "transformer"])
@torch.no_grad()
def test_mixed_precision_keeps_the_loss_in_float32(
    make_config: Callable[..., CellConfig], tokens: Cells, encoder: str
) -> None:
    config = make_config(
        num_labels=3,
        pooling="attention",
        sequence_encoder=encoder,
        sample_pooling="attention",
        feedforward_sizes=[8],
        label_weights=WEIGHTS,
        label_smoothing=0.1,
        head_initializer="xavier_uniform",
    )
    model = classifier(config)
    inputs = tokens | {"labels": torch.tensor([2, 1]), "sample_index": torch.tensor([0, 1, 1, 0])}
    exact = model(**inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(**inputs)
    for key in ("loss", "logits", "probabilities", "cell_weights", "token_weights"):
        assert rough[key].dtype == torch.float32
        torch.testing.assert_close(rough[key], exact[key], rtol=0.05, atol=0.05)
