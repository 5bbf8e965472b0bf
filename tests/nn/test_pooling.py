from __future__ import annotations

import pytest
import torch

from sfm.nn import AttentionPooling, CellConfig, backbone_config, pool

POOLINGS = ["mean", "cls", "last", "max"]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_has_no_influence(pooling: str, side: str) -> None:
    hidden = torch.randn(3, 5, 4)
    mask = torch.ones(3, 5)
    padding, no = torch.full((3, 2, 4), 1e6), torch.zeros(3, 2)
    parts = ([padding, hidden], [no, mask]) if side == "left" else ([hidden, padding], [mask, no])
    padded = pool(torch.cat(parts[0], dim=1), torch.cat(parts[1], dim=1), pooling)
    torch.testing.assert_close(padded, pool(hidden, mask, pooling))


@pytest.mark.parametrize(
    ("pooling", "expected"), [("mean", [2.0, -2.0]), ("cls", [1.0, -1.0]), ("last", [3.0, -3.0]), ("max", [3.0, -1.0])]
)
def test_values(pooling: str, expected: list[float]) -> None:
    hidden = torch.tensor([[[1.0, -1.0], [2.0, -2.0], [3.0, -3.0], [9.0, 9.0]]])
    torch.testing.assert_close(pool(hidden, torch.tensor([[1, 1, 1, 0]]), pooling), torch.tensor([expected]))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_cell_without_tokens_is_zero(pooling: str) -> None:
    assert (pool(torch.full((1, 3, 2), torch.nan), torch.zeros(1, 3), pooling) == 0).all()


def test_unknown_pooling_is_named() -> None:
    with pytest.raises(ValueError, match="Unknown pooling='median'"):
        pool(torch.ones(1, 1, 1), torch.ones(1, 1), "median")


@pytest.fixture
def attention() -> AttentionPooling:
    sizes = backbone_config("bert", hidden_size=4, num_hidden_layers=1, num_attention_heads=2)
    pooling = AttentionPooling(CellConfig(backbone_config=sizes))
    torch.nn.init.normal_(pooling.query, std=3)
    return pooling


@torch.no_grad()
def test_attention_is_a_softmax_over_the_tokens(attention: AttentionPooling) -> None:
    hidden, mask = torch.randn(3, 5, 4), torch.tensor([[1, 1, 1, 1, 1], [0, 1, 0, 1, 0], [1, 0, 0, 0, 0]])
    weights = attention.weights(hidden, mask)
    for row in range(3):
        kept = mask[row].bool()
        expected = (hidden[row, kept] @ attention.query / 2).softmax(dim=0)
        torch.testing.assert_close(weights[row, kept], expected)
        torch.testing.assert_close(attention(hidden, mask)[row], expected @ hidden[row, kept])
    assert (weights[mask == 0] == 0).all()


@pytest.mark.parametrize("filler", [1e6, float("inf"), float("nan")])
def test_tokens_outside_the_mask_have_neither_influence_nor_gradient(
    attention: AttentionPooling, filler: float
) -> None:
    hidden, mask = torch.randn(2, 3, 4), torch.ones(2, 3)
    padded = torch.cat([torch.full((2, 2, 4), filler), hidden], dim=1).requires_grad_()
    pooled = attention(padded, torch.cat([torch.zeros(2, 2), mask], dim=1))
    torch.testing.assert_close(pooled, attention(hidden, mask))
    pooled.sum().backward()
    assert (padded.grad[:, :2] == 0).all()
    assert torch.isfinite(attention.query.grad).all()


def test_a_cell_without_tokens_is_zero_with_attention_too(attention: AttentionPooling) -> None:
    pooled = attention(torch.randn(1, 3, 4), torch.zeros(1, 3))
    assert (pooled == 0).all()
    pooled.sum().backward()
    assert (attention.query.grad == 0).all()


def test_attention_has_weights() -> None:
    with pytest.raises(ValueError, match="Pooling by 'attention' has weights"):
        pool(torch.ones(1, 1, 1), torch.ones(1, 1), "attention")
