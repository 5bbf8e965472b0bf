"""Whether two cells belong together, as a network with a pair head sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sfm.data._loader import collate
from sfm.data._sampler import length_sorted_minibatches
from sfm.inference._precision import inference_context
from sfm.nn import join_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

    from sfm.tokenizers import TokenizedCells

# Tokens of a minibatch of pairs. Small on the CPU, whose caches hold one long sequence.
_MAX_TOKENS = {"cpu": 2048, "mps": 16_384, "cuda": 131_072}


def as_pairs(i: Sequence[int] | np.ndarray, j: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of the first and of the second cells."""
    first, second = _as_rows(i, "i"), _as_rows(j, "j")
    if len(first) != len(second):
        msg = f"i names {len(first)} cells and j {len(second)}. A pair needs one of each."
        raise ValueError(msg)
    return first, second


def _as_rows(rows: Sequence[int] | np.ndarray, name: str) -> np.ndarray:
    given = np.asarray(rows).ravel()
    if given.size and (given.dtype.kind not in "iu" or given.min() < 0):
        msg = f"{name} holds {min(given.tolist())!r}. Pass numbers of rows, from 0; `adata.obs_names.get_indexer(names)` finds them."
        raise ValueError(msg)
    return given.astype(np.int64)


def pair_probabilities(
    network: Any,
    cells: TokenizedCells,
    first: np.ndarray,
    second: np.ndarray,
    *,
    pad_id: int | None,
    device: torch.device,
    batch_size: int | None = None,
) -> np.ndarray:
    """Return the probability that the cells of each pair are from one group.

    Each pair is read in both orders, since a network reads one cell before the other, and their mean is taken.
    """
    lengths = cells.lengths[first] + cells.lengths[second] + 2
    limits = {"max_tokens": _MAX_TOKENS.get(device.type)} if batch_size is None else {"max_cells": batch_size}
    result = np.zeros(len(first), dtype=np.float32)
    with inference_context(device, "fp32"):
        for pairs in length_sorted_minibatches(lengths, **limits):
            a, b = (collate(cells, rows[pairs], pad_id=pad_id) for rows in (first, second))
            both = [_together(network, *ordered, device=device) for ordered in ((a, b), (b, a))]
            result[pairs] = ((both[0] + both[1]) / 2).cpu().numpy()
    return result


def _together(network: Any, first: dict[str, Tensor], second: dict[str, Tensor], *, device: torch.device) -> Tensor:
    config = network.config
    joined = join_pairs(
        first,
        second,
        sep_token_id=config.sep_token_id,
        cls_token_id=config.cls_token_id,
        pad_token_id=config.pad_token_id,
        max_length=config.max_position_embeddings,
    )
    _, vectors = network.read(**{key: tensor.to(device) for key, tensor in joined.items()})
    together: Tensor = network.head["pairs"](vectors).float().softmax(dim=1)[:, 1]
    return together
