"""The encoder that published models share, against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sfm.nn import CellConfig, CellModel, backbone_config
from sfm.nn._layers import first_layers
from sfm.nn._read_tokens import End, end_positions, take_tokens
from sfm.nn.architectures import ARCHITECTURES, get_architecture
from sfm.nn.architectures._encoder import EncoderConfig, EncoderModel, sinusoids

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}


def of_torch(model: EncoderModel) -> nn.TransformerEncoder:
    """Make the same network of torch's layers."""
    config = model.config
    layer = nn.TransformerEncoderLayer(
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        dropout=0.0,
        activation=config.hidden_act,
        layer_norm_eps=config.layer_norm_eps,
        batch_first=True,
        norm_first=config.norm_first,
    )
    norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.final_norm else None
    theirs = nn.TransformerEncoder(layer, config.num_hidden_layers, norm=norm, enable_nested_tensor=False)
    names = {
        "self_attn.in_proj_": "attention.qkv.",
        "self_attn.out_proj.": "attention.output.",
        "linear1.": "up.",
        "linear2.": "down.",
        "norm1.": "attention_norm.",
        "norm2.": "feedforward_norm.",
    }
    own = model.state_dict()
    for name, tensor in theirs.state_dict().items():
        renamed = name
        for old, new in names.items():
            renamed = renamed.replace(old, new)
        tensor.copy_(own[renamed])
    return theirs.eval()


def make(**settings: object) -> EncoderModel:
    torch.manual_seed(0)
    model = EncoderModel(EncoderConfig(**SIZES, **settings)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def embeds() -> torch.Tensor:
    return torch.randn(3, 7, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def mask() -> torch.Tensor:
    return torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] + [0] * 6])


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("hidden_act", ["relu", "gelu"])
@torch.inference_mode()
def test_it_is_the_encoder_of_torch(
    embeds: torch.Tensor, mask: torch.Tensor, norm_first: bool, hidden_act: str
) -> None:
    ours = make(norm_first=norm_first, hidden_act=hidden_act, final_norm=norm_first, layer_norm_eps=1e-4)
    theirs = of_torch(ours)(embeds, src_key_padding_mask=~mask.bool())
    seen = mask.bool()
    output = ours(embeds, mask, output_hidden_states=True)
    torch.testing.assert_close(output.last_hidden_state[seen], theirs[seen], rtol=1e-4, atol=1e-5)
    assert len(output.hidden_states) == 3
    torch.testing.assert_close(output.hidden_states[0], embeds)
    torch.testing.assert_close(output.hidden_states[-1], output.last_hidden_state)


@torch.inference_mode()
def test_eager_attention_is_the_same_and_has_weights(embeds: torch.Tensor, mask: torch.Tensor) -> None:
    model = make()
    fused = model(embeds, mask).last_hidden_state
    model.set_attn_implementation("eager")
    output = model(embeds, mask, output_attentions=True)
    torch.testing.assert_close(output.last_hidden_state[mask.bool()], fused[mask.bool()], rtol=1e-4, atol=1e-5)
    weights = output.attentions[0]
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, 4, 7))
    assert not weights[1, ..., 4:].any()


@pytest.mark.parametrize("positions", [None, "learned", "sinusoidal"])
@torch.inference_mode()
def test_padding_and_minibatch_mates_change_nothing(
    embeds: torch.Tensor, mask: torch.Tensor, positions: str | None
) -> None:
    model = make(positions=positions, max_position_embeddings=7)
    together = model(embeds, mask).last_hidden_state
    alone = model(embeds[1:2, :4], mask[1:2, :4]).last_hidden_state
    torch.testing.assert_close(together[1:2, :4], alone, rtol=1e-4, atol=1e-5)
    swapped = model(embeds[:, [1, 0, 2, 3, 4, 5, 6]], mask[:, [1, 0, 2, 3, 4, 5, 6]]).last_hidden_state[0, [1, 0]]
    assert torch.allclose(swapped, together[0, [0, 1]], atol=1e-5) == (positions is None)


def test_a_bias_on_padding_lets_it_in(embeds: torch.Tensor, mask: torch.Tensor) -> None:
    # With gradients, since the fast path of torch takes the numbers of a mask for truth values.
    biased = make(padding_bias=1.0)
    layer = of_torch(biased)(embeds, src_key_padding_mask=(1 - mask).float())
    torch.testing.assert_close(biased(embeds, mask).last_hidden_state, layer, rtol=1e-4, atol=1e-5)
    hidden = make()(embeds, mask).last_hidden_state
    assert not torch.allclose(hidden[1, :4], layer[1, :4], atol=1e-2)


def test_sines_and_cosines() -> None:
    found = sinusoids(torch.arange(5), 6)[3, 4:]
    angle = torch.tensor(3 / 10_000 ** (4 / 6))
    torch.testing.assert_close(found, torch.stack([angle.sin(), angle.cos()]))


def test_checkpointed_gradients_are_the_same(embeds: torch.Tensor, mask: torch.Tensor) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = make().train()
        if checkpointing:  # the name changes with transformers 6
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        model(embeds.clone().requires_grad_(), mask).last_hidden_state.sum().backward()
        gradients.append(model.layers[0].up.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("backbone", ["bert", "sfm_encoder"])
@torch.inference_mode()
def test_layers_above_the_one_that_is_read_are_left_out(backbone: str) -> None:
    config = backbone_config(backbone, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, max_length=8)
    torch.manual_seed(0)
    model = CellModel(CellConfig(10, config, pooling="cls", hidden_layer=-2)).eval()
    ids, mask = torch.tensor([[2, 4, 5, 0]]), torch.tensor([[1, 1, 1, 0]])
    states = model(ids, mask, output_hidden_states=True).hidden_states
    torch.testing.assert_close(model.encode(ids, mask), states[-2][:, 0])
    layers = len(model.backbone.encoder.layer) if backbone == "bert" else len(model.backbone.layers)
    assert layers == 3
    with (
        pytest.raises(ValueError, match="hidden_layer=-5, but a backbone of 3 layers"),
        first_layers(model.backbone, -5),
    ):
        pass


def test_a_model_of_it_is_saved_and_loaded(tmp_path) -> None:
    config = backbone_config(
        "sfm_encoder", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, positions="learned"
    )
    model = CellModel(CellConfig(10, config)).eval()
    model.save_pretrained(tmp_path)
    again = CellModel.from_pretrained(tmp_path)
    ids, mask = torch.tensor([[2, 4, 5]]), torch.ones(1, 3, dtype=torch.long)
    with torch.inference_mode():
        torch.testing.assert_close(again.eval().encode(ids, mask), model.encode(ids, mask))


def test_unknown_architectures_and_missing_readouts_are_told() -> None:
    with pytest.raises(ValueError, match="Unknown architecture 'bert'"):
        get_architecture("bert")
    with pytest.raises(ValueError, match="pooling='published', but architecture=None"):
        CellConfig(10, pooling="published")


@pytest.mark.parametrize("name", ARCHITECTURES.names())
def test_every_architecture_is_there(name: str) -> None:
    architecture = get_architecture(name)
    assert (architecture.vector_size is None) or architecture.readout is not None


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("side", ["right", "left", "none"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("pooling", ["cls", "last", "mean"])
@torch.inference_mode()
def test_cells_that_are_read_from_one_token_are_the_same(
    norm_first: bool, side: str, attention: str, pooling: str
) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = backbone_config("sfm_encoder", norm_first=norm_first, final_norm=norm_first, **sizes)
    torch.manual_seed(0)
    model = CellModel(CellConfig(10, config, pooling=pooling, attn_implementation=attention)).eval()
    ids, mask = torch.tensor([[2, 4, 5, 6], [2, 7, 8, 0], [0, 0, 0, 0]]), torch.tensor([[1] * 4, [1, 1, 1, 0], [0] * 4])
    if side == "left":
        ids, mask = ids.flip(1), mask.flip(1)
    if side == "none":
        ids, mask = ids[:1], mask[:1]
    wanted = model.pool(model(ids, mask).last_hidden_state, ids, mask, pooling=pooling)
    computed = []
    model.backbone.layers[-1].up.register_forward_hook(lambda _, inputs, __: computed.append(inputs[0].shape[1]))
    torch.testing.assert_close(model.encode(ids, mask), wanted, rtol=1e-4, atol=1e-6)
    assert computed == [ids.shape[1] if pooling == "mean" else 1]


@pytest.mark.parametrize("hidden_layer", [-1, -2, 2, 1, 0])
@pytest.mark.parametrize("pooling", ["cls", "last", "mean"])
@torch.inference_mode()
def test_cells_that_are_read_from_one_token_of_a_bert_are_the_same(hidden_layer: int, pooling: str) -> None:
    config = backbone_config("bert", hidden_size=16, num_hidden_layers=3, num_attention_heads=2, max_length=8)
    torch.manual_seed(0)
    model = CellModel(CellConfig(10, config, pooling=pooling, hidden_layer=hidden_layer)).eval()
    ids, mask = torch.tensor([[2, 4, 5, 6], [2, 7, 8, 0], [0, 0, 0, 0]]), torch.tensor([[1] * 4, [1, 1, 1, 0], [0] * 4])
    states = model(ids, mask, output_hidden_states=True).hidden_states
    wanted = model.pool(states[hidden_layer], ids, mask, pooling=pooling)
    computed = []
    for layer in model.backbone.encoder.layer:
        layer.intermediate.register_forward_hook(lambda _, inputs, __: computed.append(inputs[0].shape[1]))
    torch.testing.assert_close(model.encode(ids, mask), wanted, rtol=1e-4, atol=1e-6)
    assert computed == ([4] * (hidden_layer % 4))[1:] + ([4 if pooling == "mean" else 1] if hidden_layer else [])
    whole = model(ids, mask).last_hidden_state
    torch.testing.assert_close(whole, states[-1])


@pytest.mark.parametrize(("ends", "wanted"), [(("first",), [[0], [1]]), (("first", "last"), [[0, 1], [1, 2]])])
def test_ends_of_cells_are_found_whatever_side_padding_is_on(ends: tuple[End, ...], wanted: list[list[int]]) -> None:
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0]])
    assert end_positions(mask, ends).tolist() == wanted


@torch.inference_mode()
def test_the_last_layer_computes_the_tokens_that_are_asked_for(embeds: torch.Tensor, mask: torch.Tensor) -> None:
    model, queries = make(positions="sinusoidal"), torch.tensor([[6, 0], [3, 0], [0, 0]])
    whole = model(embeds, mask).last_hidden_state
    found = model(embeds, mask, queries=queries).last_hidden_state
    torch.testing.assert_close(found, take_tokens(whole, queries), rtol=1e-4, atol=1e-5)
