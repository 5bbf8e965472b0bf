"""What every backbone must keep, whatever its attention, positions and norms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from transformers import AutoModel

from sfm.nn import BACKBONES, CellConfig, CellForMaskedLM, backbone_config

if TYPE_CHECKING:
    from pathlib import Path

VOCAB = 50
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_length": 64}


def make_model(name: str, **settings: object) -> CellForMaskedLM:
    torch.manual_seed(0)
    grouped = {} if name in ("bert", "modernbert") else {"num_key_value_heads": 2}
    sizes = backbone_config(name, **SIZES, **grouped, **settings)
    return CellForMaskedLM(CellConfig(VOCAB, sizes, special_token_ids=[0, 1, 2, 3])).eval()


@pytest.fixture
def cells() -> dict[str, torch.Tensor]:
    """Cells of 12, 7 and 0 tokens."""
    mask = (torch.arange(12) < torch.tensor([[12], [7], [0]])).long()
    ids = torch.randint(4, VOCAB, (3, 12), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_padding_and_neighbours_do_not_matter(name: str, cells: dict[str, torch.Tensor]) -> None:
    model = make_model(name)
    together = model.encode(**cells)
    alone = model.encode(**{key: tensor[1:2, :7] for key, tensor in cells.items()})
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=0)
    assert torch.isfinite(together).all()


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("name", [name for name in BACKBONES if name not in ("bert", "modernbert")])
@torch.no_grad()
def test_direction_of_attention(name: str, is_causal: bool, cells: dict[str, torch.Tensor]) -> None:
    model = make_model(name, is_causal=is_causal).cell
    first = {key: tensor[:1] for key, tensor in cells.items()}
    changed = first["input_ids"].clone()
    changed[0, -1] = 4 + (changed[0, -1] - 3) % (VOCAB - 4)
    before = model(**first).last_hidden_state[0, 0]
    after = model(changed, first["attention_mask"]).last_hidden_state[0, 0]
    assert torch.equal(before, after) == is_causal


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_round_trip(name: str, cells: dict[str, torch.Tensor], tmp_path: Path) -> None:
    model = make_model(name)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert type(loaded.backbone) is type(model.cell.backbone)
    assert torch.equal(loaded.encode(**cells), model.encode(**cells))


@pytest.mark.parametrize("name", BACKBONES)
def test_unknown_setting_is_named(name: str) -> None:
    """transformers itself takes any setting and ignores it."""
    with pytest.raises(ValueError, match=f"'{name}' has no setting 'num_layers'. Did you mean .*'num_hidden_layers'"):
        backbone_config(name, num_layers=2)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_weight_is_trained(name: str, cells: dict[str, torch.Tensor]) -> None:
    model = make_model(name).train()
    labels = cells["input_ids"].masked_fill(cells["attention_mask"] == 0, -100)
    model(**cells, labels=labels).loss.backward()
    assert [weight for weight, tensor in model.named_parameters() if tensor.grad is None] == []
