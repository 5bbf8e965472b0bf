from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

import sfm
from sfm.nn import CellConfig, CellForMaskedLM, CellModel, backbone_config, mask_tokens

if TYPE_CHECKING:
    from pathlib import Path

VOCAB = 50
VALUES = [None, "bins", "continuous"]


def make_config(value_embedding: str | None = None, **kwargs: object) -> CellConfig:
    sizes = backbone_config("bert", hidden_size=16, num_hidden_layers=2, num_attention_heads=2, max_length=64)
    return CellConfig(vocab_size=VOCAB, backbone_config=sizes, value_embedding=value_embedding, **kwargs)


@pytest.fixture
def minibatch() -> dict[str, torch.Tensor]:
    """Cells of 12, 7 and 0 tokens."""
    mask = (torch.arange(12) < torch.tensor([[12], [7], [0]])).long()
    ids = torch.randint(4, VOCAB, (3, 12), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = 2
    return {"input_ids": ids * mask, "attention_mask": mask, "values": (ids % 7).float() * mask}


@pytest.fixture(params=VALUES)
def model(request: pytest.FixtureRequest) -> CellForMaskedLM:
    torch.manual_seed(0)
    return CellForMaskedLM(make_config(request.param)).eval()


def test_protocol(model: CellForMaskedLM) -> None:
    assert isinstance(model, sfm.ModelProtocol)
    assert isinstance(model.cell, sfm.ModelProtocol)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "max"])
def test_padding_and_neighbours_do_not_matter(
    model: CellForMaskedLM, minibatch: dict[str, torch.Tensor], pooling: str
) -> None:
    with torch.no_grad():
        together = model.encode(**minibatch, pooling=pooling)
        alone = model.encode(**{k: v[1:2, :7] for k, v in minibatch.items()}, pooling=pooling)
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=0)
    assert (together[2] == 0).all()
    assert torch.isfinite(together).all()


def test_values_are_read(minibatch: dict[str, torch.Tensor]) -> None:
    for kind in ("bins", "continuous"):
        model = CellModel(make_config(kind)).eval()
        changed = minibatch | {"values": minibatch["values"] + 1}
        with torch.no_grad():
            assert not torch.allclose(model.encode(**minibatch)[0], model.encode(**changed)[0])
        with pytest.raises(ValueError, match="values=None"):
            model.encode(minibatch["input_ids"], minibatch["attention_mask"])


@pytest.mark.parametrize("auto", [AutoModelForMaskedLM, CellForMaskedLM])
def test_round_trip(model: CellForMaskedLM, minibatch: dict[str, torch.Tensor], tmp_path: Path, auto: type) -> None:
    model.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    loaded = auto.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded(**minibatch).logits, model(**minibatch).logits)


def test_round_trip_of_the_base_model(
    model: CellForMaskedLM, minibatch: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, CellModel)
    with torch.no_grad():
        assert torch.equal(loaded.encode(**minibatch), model.encode(**minibatch))


def test_config_round_trip(tmp_path: Path) -> None:
    config = make_config("bins", n_bins=11, pooling="cls", special_token_ids=[0, 1, 2, 3])
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, CellConfig)
    assert loaded.to_dict() | {"_name_or_path": ""} == config.to_dict()
    assert type(loaded.backbone_config) is type(config.backbone_config)


def test_sparse_and_full_loss_agree(model: CellForMaskedLM, minibatch: dict[str, torch.Tensor]) -> None:
    special = {"vocab_size": VOCAB, "mask_token_id": 1, "special_token_ids": [0, 1, 2, 3]}
    masked = mask_tokens(**minibatch, **special, generator=torch.Generator().manual_seed(0))
    arguments = (masked.input_ids, minibatch["attention_mask"], masked.values, masked.labels)
    with torch.no_grad():
        sparse = model(*arguments)
        model.config.sparse_prediction = False
        full = model(*arguments)
    torch.testing.assert_close(sparse.loss, full.loss)
    assert sparse.logits.shape == ((masked.labels >= 0).sum(), VOCAB)
    assert full.logits.shape == (3, 12, VOCAB)


def test_every_weight_is_trained(model: CellForMaskedLM, minibatch: dict[str, torch.Tensor]) -> None:
    special = {"vocab_size": VOCAB, "mask_token_id": 1, "special_token_ids": [0, 1, 2, 3]}
    masked = mask_tokens(**minibatch, **special, probability=0.3, generator=torch.Generator().manual_seed(0))
    model.train()(masked.input_ids, minibatch["attention_mask"], masked.values, masked.labels).loss.backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_hidden_states_and_attentions(minibatch: dict[str, torch.Tensor]) -> None:
    config = make_config()
    model = CellModel(config)
    model.set_attn_implementation("eager")
    output = model(**minibatch, output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == 3
    assert output.attentions[0].shape == (3, 2, 12, 12)


def test_gradient_checkpointing_gives_the_same_gradient(minibatch: dict[str, torch.Tensor]) -> None:
    torch.manual_seed(0)
    model = CellForMaskedLM(make_config()).train()
    for dropout in (m for m in model.modules() if isinstance(m, torch.nn.Dropout)):
        dropout.p = 0.0
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        model.zero_grad()
        model(minibatch["input_ids"], minibatch["attention_mask"]).logits.square().mean().backward()
        gradients.append(model.cell.embedder.genes.weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_unknown_backbone_is_named() -> None:
    with pytest.raises(ValueError, match="'no_such_model'.*Tested backbones: .*'bert'"):
        backbone_config("no_such_model")


def test_backbone_config_without_type_is_named() -> None:
    with pytest.raises(ValueError, match="no 'model_type'"):
        CellConfig(backbone_config={"hidden_size": 8})
