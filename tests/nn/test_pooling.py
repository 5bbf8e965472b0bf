from __future__ import annotations

import pytest
import torch

from sfm.nn import pool

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
