from __future__ import annotations

import pytest
import torch

from sfm.nn import append_token, causal_labels, insert_token, stack_choices

Cells = dict[str, torch.Tensor]


def tokens(minibatch: Cells) -> list[list[int]]:
    """Token ids of each cell, without padding."""
    return [
        ids[mask.bool()].tolist() for ids, mask in zip(minibatch["input_ids"], minibatch["attention_mask"], strict=True)
    ]


@pytest.mark.parametrize("max_length", [None, 12, 7])
def test_a_token_is_appended_to_cells_that_were_not_cut(cells: Cells, max_length: int | None) -> None:
    longer = append_token(cells, 3, max_length=max_length)
    for before, after in zip(tokens(cells), tokens(longer), strict=True):
        grows = max_length is None or len(before) < max_length
        assert after == before + [3] * grows
    assert torch.equal(longer["values"][:, :12], cells["values"])


@pytest.mark.parametrize("position", [0, 1])
def test_a_token_is_inserted(cells: Cells, position: int) -> None:
    first = {key: tensor[:3] for key, tensor in cells.items()}
    longer = insert_token(first, torch.tensor([37, 38, 39]), position=position)
    for token, before, after in zip([37, 38, 39], tokens(first), tokens(longer), strict=True):
        assert after == [*before[:position], token, *before[position:]]
    assert (longer["values"][:, position] == 0).all()
    assert longer["values"].dtype == torch.float32


def test_other_entries_are_left_alone(cells: Cells) -> None:
    more = cells | {"groups": torch.tensor([0, 1, 0, 1])}
    assert torch.equal(append_token(more, 3)["groups"], more["groups"])
    assert torch.equal(insert_token(more, torch.tensor([5] * 4))["groups"], more["groups"])


def test_labels_leave_padding_out(cells: Cells) -> None:
    labels = causal_labels(cells["input_ids"], cells["attention_mask"])
    assert torch.equal(labels == -100, cells["attention_mask"] == 0)
    assert torch.equal(labels[labels >= 0], cells["input_ids"][labels >= 0])


def test_stacked_choices_keep_their_tokens(cells: Cells) -> None:
    longer = append_token(cells, 3)
    stacked = stack_choices([cells, longer], pad_token_id=0)
    assert stacked["input_ids"].shape == (4, 2, 13)
    for i, choice in enumerate((cells, longer)):
        assert tokens({key: tensor[:, i] for key, tensor in stacked.items()}) == tokens(choice)
