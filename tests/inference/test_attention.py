"""Attention in blocks is attention."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from sfm.inference._attention import BlockedAttention, blocked_attention


def inputs(n_queries: int, n_keys: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, n_queries, 8), (2, 3, n_keys, 8), (2, 3, n_keys, 8))
    return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)


def mask(kind: str, n_queries: int, n_keys: int) -> torch.Tensor | None:
    generator = torch.Generator().manual_seed(1)
    keep = torch.rand(2, 1, n_queries, n_keys, generator=generator) < 0.7
    keep[..., 0] = True
    masks = {"none": None, "padding": keep[:, :, :1], "pairs": keep, "additive": torch.where(keep, 0.0, -1e9)}
    return masks[kind]


@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize("kind", ["none", "padding", "pairs", "additive"])
@pytest.mark.parametrize(("n_queries", "n_keys"), [(1, 1), (5, 9), (128, 128), (300, 200)])
def test_blocks_give_what_torch_gives(n_queries: int, n_keys: int, kind: str, scale: float | None) -> None:
    parts, attn_mask = inputs(n_queries, n_keys, torch.float32), mask(kind, n_queries, n_keys)
    expected = scaled_dot_product_attention(*parts, attn_mask=attn_mask, scale=scale)
    torch.testing.assert_close(blocked_attention(*parts, attn_mask, scale=scale), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["none", "padding"])
def test_the_context_takes_over_bf16(kind: str) -> None:
    parts, attn_mask = inputs(300, 300, torch.bfloat16), mask(kind, 300, 300)
    with BlockedAttention():
        inside = scaled_dot_product_attention(*parts, attn_mask=attn_mask)
    assert inside.dtype == torch.bfloat16
    assert torch.equal(inside, blocked_attention(*parts, attn_mask))
    exact = scaled_dot_product_attention(*(part.float() for part in parts), attn_mask=attn_mask)
    torch.testing.assert_close(inside.float(), exact, atol=2e-2, rtol=0)


@pytest.mark.parametrize(
    ("dtype", "options"), [(torch.float32, {}), (torch.bfloat16, {"is_causal": True})], ids=["fp32", "causal"]
)
def test_the_context_leaves_the_rest_to_torch(dtype: torch.dtype, options: dict[str, bool]) -> None:
    parts = inputs(150, 150, dtype)
    expected = scaled_dot_product_attention(*parts, **options)
    with BlockedAttention():
        assert torch.equal(scaled_dot_product_attention(*parts, **options), expected)
    assert not torch.equal(blocked_attention(*parts), expected)  # else nothing was left to torch


def test_rotated_queries_and_keys_are_brought_down() -> None:
    parts = inputs(150, 150, torch.bfloat16)
    with BlockedAttention():
        mixed = scaled_dot_product_attention(parts[0].float(), parts[1].float(), parts[2])
    assert torch.equal(mixed, blocked_attention(*parts))
