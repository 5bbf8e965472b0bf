from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from sfm.nn import BACKBONES, CellConfig, backbone_config

if TYPE_CHECKING:
    from collections.abc import Callable

VOCAB = 40
SPECIAL = {"pad_token_id": 0, "mask_token_id": 1, "cls_token_id": 2, "eos_token_id": 3}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "max_length": 32}
GROUPED = [name for name in BACKBONES if name not in ("bert", "modernbert")]


@pytest.fixture(scope="session")
def make_config() -> Callable[..., CellConfig]:
    """Make the configuration of a tiny model; `sizes` goes to its backbone."""

    def make(backbone: str = "bert", *, sizes: dict[str, Any] | None = None, **settings: Any) -> CellConfig:
        grouped = {"num_key_value_heads": 2} if backbone in GROUPED else {}
        return CellConfig(VOCAB, backbone_config(backbone, **SIZES | grouped | (sizes or {})), **SPECIAL | settings)

    return make


@pytest.fixture
def cells() -> dict[str, torch.Tensor]:
    """Cells of 12, 7, 4 and 0 tokens, each starting with `<cls>`, no gene twice."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.stack([torch.randperm(VOCAB - 4, generator=generator)[:12] + 4 for _ in range(4)])
    ids[:, 0] = 2
    mask = (torch.arange(12) < torch.tensor([[12], [7], [4], [0]])).long()
    values = (ids % 7).float() * mask
    return {"input_ids": ids * mask, "attention_mask": mask, "values": values}
