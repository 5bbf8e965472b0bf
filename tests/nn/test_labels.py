"""Labels of cells, of genes, of spans of genes, and choices among cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from sfm.nn import (
    CellForMultipleChoice,
    CellForQuestionAnswering,
    CellForSequenceClassification,
    CellForTokenClassification,
    best_spans,
    insert_token,
    stack_choices,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sfm.nn import CellConfig

Cells = dict[str, torch.Tensor]
NAN = float("nan")


@pytest.fixture
def tokens(cells: Cells) -> Cells:
    return {key: cells[key] for key in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize(
    ("problem_type", "num_labels", "labels", "known", "loss"),
    [
        ("single_label_classification", 3, [0, 2, -100, 1], [0, 1, 3], F.cross_entropy),
        ("regression", 1, [0.5, -1.0, NAN, 2.0], [0, 1, 3], F.mse_loss),
        (
            "multi_label_classification",
            2,
            [[0.0, 1.0], [1.0, 1.0], [NAN, NAN], [0.0, 0.0]],
            [0, 1, 3],
            F.binary_cross_entropy_with_logits,
        ),
    ],
)
@torch.no_grad()
def test_problem_types(
    make_config: Callable[..., CellConfig],
    tokens: Cells,
    problem_type: str,
    num_labels: int,
    labels: list[object],
    known: list[int],
    loss: Callable[..., torch.Tensor],
    stated: bool,
) -> None:
    """Stated or told by the labels; unknown labels have no influence."""
    torch.manual_seed(0)
    settings = {"problem_type": problem_type} if stated else {}
    model = CellForSequenceClassification(make_config(num_labels=num_labels, **settings)).eval()
    output = model(**tokens, labels=torch.tensor(labels))
    assert output.logits.shape == (4, num_labels)
    logits, target = output.logits[known], torch.tensor(labels)[known]
    if num_labels == 1:
        logits = logits.squeeze(1)
    torch.testing.assert_close(output.loss, loss(logits, target))


@torch.no_grad()
def test_regression_of_several_numbers(make_config: Callable[..., CellConfig], tokens: Cells) -> None:
    model = CellForSequenceClassification(make_config(num_labels=2, problem_type="regression")).eval()
    labels = torch.tensor([[0.0, 1.0], [2.0, NAN], [NAN, NAN], [1.0, 1.0]])
    output = model(**tokens, labels=labels)
    known = ~labels.isnan()
    torch.testing.assert_close(output.loss, F.mse_loss(output.logits[known], labels[known]))


@torch.no_grad()
def test_classifiers_read_the_cell_vector(make_config: Callable[..., CellConfig], tokens: Cells) -> None:
    for pooling in ("mean", "cls", "last", "max"):
        model = CellForSequenceClassification(make_config(num_labels=3, pooling=pooling)).eval()
        torch.testing.assert_close(model(**tokens).logits, model.head(model.encode(**tokens)))


@torch.no_grad()
def test_genes_without_a_label_have_no_influence(make_config: Callable[..., CellConfig], tokens: Cells) -> None:
    model = CellForTokenClassification(make_config(num_labels=3)).eval()
    labels = torch.full((4, 12), -100)
    labels[0, 3], labels[1, 5] = 2, 0
    output = model(**tokens, labels=labels)
    expected = F.cross_entropy(output.logits[[0, 1], [3, 5]], torch.tensor([2, 0]))
    torch.testing.assert_close(output.loss, expected)


@torch.no_grad()
def test_answers_are_genes(make_config: Callable[..., CellConfig], tokens: Cells) -> None:
    question = 39
    model = CellForQuestionAnswering(make_config(special_token_ids=[0, 1, 2, 3, question])).eval()
    asked = insert_token(tokens, torch.full((4,), question))
    output = model(**asked)
    genes = (asked["attention_mask"] == 1) & (asked["input_ids"] > 3) & (asked["input_ids"] != question)
    lowest = torch.finfo(torch.float32).min
    for logits in (output.start_logits, output.end_logits):
        assert (logits[~genes] == lowest).all()
        assert (logits[genes] > lowest).all()
    spans = best_spans(output.start_logits, output.end_logits)
    assert (spans.start[:3] >= 2).all()
    assert (spans.end[:3] >= spans.start[:3]).all()
    assert (spans.end[:3] <= torch.tensor([12, 7, 4])).all()
    assert (spans.start[3], spans.end[3]) == (-1, -1)


@torch.no_grad()
def test_loss_of_answers(make_config: Callable[..., CellConfig], tokens: Cells) -> None:
    model = CellForQuestionAnswering(make_config()).eval()
    start, end = torch.tensor([1, 3, 0, -100]), torch.tensor([4, 11, 2, 50])
    output = model(**tokens, start_positions=start, end_positions=end)
    # Column 0 is <cls>, and the second cell has padding at 11: neither can be an answer.
    expected = (
        F.cross_entropy(output.start_logits[:2], start[:2]) + F.cross_entropy(output.end_logits[[0, 2]], end[[0, 2]])
    ) / 2
    torch.testing.assert_close(output.loss, expected)


@given(
    n=st.integers(1, 7),
    max_genes=st.none() | st.integers(1, 9),
    seed=st.integers(0, 1000),
    hidden=st.integers(0, 7),
)
def test_best_span_is_the_best(n: int, max_genes: int | None, seed: int, hidden: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    start, end = torch.randn(2, 1, n, generator=generator)
    start[0, :hidden] = end[0, :hidden] = torch.finfo(torch.float32).min
    allowed = [(i, j) for i in range(hidden, n) for j in range(i, n) if max_genes is None or j - i < max_genes]
    spans = best_spans(start, end, max_genes=max_genes)
    found = (spans.start.item(), spans.end.item())
    if not allowed:
        assert found == (-1, -1)
    else:
        assert found == max(allowed, key=lambda span: start[0, span[0]] + end[0, span[1]])
        torch.testing.assert_close(spans.score[0], start[0, found[0]] + end[0, found[1]])


@torch.no_grad()
def test_choices_are_scored_alone(make_config: Callable[..., CellConfig], tokens: Cells) -> None:
    model = CellForMultipleChoice(make_config()).eval()
    backwards = {key: tensor.flip(0) for key, tensor in tokens.items()}
    forth = model(**stack_choices([tokens, backwards])).logits
    back = model(**stack_choices([backwards, tokens])).logits
    torch.testing.assert_close(forth, back.flip(1))
    alone = model(**stack_choices([tokens])).logits
    torch.testing.assert_close(alone[:, 0], forth[:, 0])


@torch.no_grad()
def test_a_choice_without_tokens_is_never_chosen(make_config: Callable[..., CellConfig], tokens: Cells) -> None:
    model = CellForMultipleChoice(make_config()).eval()
    absent = {key: torch.zeros_like(tensor) for key, tensor in tokens.items()}
    output = model(**stack_choices([absent, tokens]), labels=torch.tensor([0, 1, -100, 0]))
    assert output.logits[:3].argmax(dim=1).tolist() == [1, 1, 1]
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits[1:2], torch.tensor([1])))
