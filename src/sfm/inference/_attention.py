"""Attention in bf16 on processors whose fused kernel has no use for their bf16 units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

# Queries at a time: their scores stay in the cache between the two products.
_QUERIES = 128


class BlockedAttention(TorchFunctionMode):
    """Inside this context, attention of bf16 on the CPU is two matrix products for each block of queries.

    Without bf16 tiles, the fused kernel of torch multiplies bf16 no faster than fp32, while plain products are several
    times as fast.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute attention in blocks, and everything else as ever."""
        options = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention and _can_be_blocked(*args, **options):
            return blocked_attention(*args, **{k: options[k] for k in ("attn_mask", "scale") if k in options})
        return func(*args, **options)


def _can_be_blocked(  # noqa: PLR0917
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,  # noqa: FBT001, FBT002 - the signature is torch's
    scale: float | None = None,
    enable_gqa: bool = False,  # noqa: FBT001, FBT002
) -> bool:
    plain = not is_causal and not enable_gqa and dropout_p == 0
    # Rotary positions leave queries and keys in fp32, which autocast would bring down to bf16.
    return plain and query.device.type == "cpu" and value.dtype == torch.bfloat16


def blocked_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *, scale: float | None = None
) -> Tensor:
    """Return what `scaled_dot_product_attention` does, in the dtype of the values; the softmax is in fp32."""
    query = query * (query.shape[-1] ** -0.5 if scale is None else scale)  # (cells, heads, queries, dims)
    query, key = query.to(value.dtype), key.to(value.dtype)
    attended = query.new_empty(*query.shape[:-1], value.shape[-1])
    for start in range(0, query.shape[-2], _QUERIES):
        block = slice(start, start + _QUERIES)
        scores = (query[..., block, :] @ key.mT).float()  # (cells, heads, block, keys)
        if attn_mask is not None:
            mask = attn_mask if attn_mask.shape[-2] == 1 else attn_mask[..., block, :]
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        attended[..., block, :] = scores.softmax(dim=-1).to(value.dtype) @ value
    return attended
