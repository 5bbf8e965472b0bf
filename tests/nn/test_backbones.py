"""What every backbone must keep, whatever its attention, positions and norms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, BertConfig, LlamaConfig

import sfm
from sfm.nn import BACKBONES, CellConfig, CellForMaskedLM, CellModel, backbone_config

if TYPE_CHECKING:
    from collections.abc import Callable

Cells = dict[str, torch.Tensor]
DECODERS = [name for name in BACKBONES if name not in ("bert", "modernbert")]
# Not among the tested backbones in all objectives, but they hold what is promised of any.
OTHERS = ["roberta", "gpt2", "mistral", "gemma2", "qwen2", "modernbert-decoder", "esm", "falcon", "mixtral"]
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 8}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "rope_theta": 1e4,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


@pytest.fixture
def tokens(cells: Cells) -> Cells:
    return {key: cells[key] for key in ("input_ids", "attention_mask")}


def make_model(config: CellConfig) -> CellModel:
    """A model whose weights are far enough from zero for all of them to matter."""
    torch.manual_seed(0)
    model = CellModel(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=weight.shape[-1] ** -0.5)
    return model


def assert_depends_on_itself_alone(model: CellModel, tokens: Cells) -> None:
    together = model.encode(**tokens)
    assert torch.isfinite(together).all()
    for row, length in enumerate([12, 7, 4, 1]):
        alone = {key: tensor[row : row + 1, :length] for key, tensor in tokens.items()}
        left = {key: torch.nn.functional.pad(tensor, (3, 0)) for key, tensor in alone.items()}
        for inputs in (alone, left):
            torch.testing.assert_close(model.encode(**inputs)[0], together[row], atol=1e-5, rtol=0)


@pytest.mark.parametrize("backbone", OTHERS)
@torch.no_grad()
def test_other_text_models_serve_too(make_config: Callable[..., CellConfig], backbone: str, tokens: Cells) -> None:
    assert_depends_on_itself_alone(make_model(make_config(backbone)), tokens)


@pytest.mark.parametrize(
    ("backbone", "settings"),
    [
        *((name, {"num_key_value_heads": n}) for name in DECODERS for n in (1, 4)),
        *(
            (name, {"rope_parameters": rope})
            for name in ("llama", "qwen3", "seed_oss")
            for rope in (LINEAR, YARN, LLAMA3)
        ),
        ("apertus", {"rope_parameters": LINEAR}),
        ("phi3", {"sliding_window": 3}),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 0}),
        ("modernbert", {"local_attention": 4}),
        ("llama", {"attention_bias": True}),
        ("seed_oss", {"attention_bias": False}),
        ("phi3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
        ("llama", {"head_dim": 8}),
        ("bert", {"hidden_act": "relu"}),
        ("bert", {"intermediate_size": 24}),
    ],
)
@torch.no_grad()
def test_settings_have_an_effect(
    make_config: Callable[..., CellConfig], backbone: str, settings: dict[str, Any], tokens: Cells
) -> None:
    changed = make_model(make_config(backbone, sizes=settings))
    usual = make_model(make_config(backbone))
    assert_depends_on_itself_alone(changed, tokens)
    shapes = {key: weight.shape for key, weight in usual.named_parameters()}
    if shapes == {key: weight.shape for key, weight in changed.named_parameters()}:
        changed.load_state_dict(usual.state_dict())
        assert not torch.allclose(changed.encode(**tokens)[0], usual.encode(**tokens)[0], atol=1e-4)


def modules_of(make_config: Callable[..., CellConfig], backbone: str) -> str:
    return str(make_model(make_config(backbone)).backbone)


def test_parts_are_there(make_config: Callable[..., CellConfig]) -> None:
    for backbone in BACKBONES:
        structure = modules_of(make_config, backbone)
        assert ("q_norm" in structure) == (backbone in ("qwen3", "apertus")), "QK-norm"
        assert ("XIELU" in structure) == (backbone == "apertus")
        assert ("Rotary" in structure) == (backbone != "bert")
    grouped = make_model(make_config("llama", sizes={"num_key_value_heads": 1})).backbone.layers[0].self_attn
    assert grouped.k_proj.out_features * 4 == grouped.q_proj.out_features


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("backbone", [*DECODERS, "bert", "roberta", "gpt2"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_direction_of_attention(
    make_config: Callable[..., CellConfig], backbone: str, is_causal: bool, attention: str, tokens: Cells
) -> None:
    """One switch for all, with padding in the minibatch and without."""
    model = make_model(make_config(backbone, sizes={"is_causal": is_causal}))
    model.set_attn_implementation(attention)
    for rows in (slice(0, 1), slice(0, 4)):
        first = {key: tensor[rows] for key, tensor in tokens.items()}
        changed = first["input_ids"].clone()
        changed[0, 11] = 4 + (changed[0, 11] - 3) % 36
        before = model(**first).last_hidden_state[0, :11]
        after = model(changed, first["attention_mask"]).last_hidden_state[0, :11]
        assert torch.equal(before, after) == is_causal


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_attention_implementations_agree(make_config: Callable[..., CellConfig], backbone: str, tokens: Cells) -> None:
    models = {
        name: make_model(make_config(backbone, sizes={"attn_implementation": name} if name else {}))
        for name in ("", "sdpa", "eager")
    }
    used = {name: model.backbone.config._attn_implementation for name, model in models.items()}
    assert used == {"": "sdpa", "sdpa": "sdpa", "eager": "eager"}
    expected = models["sdpa"].encode(**tokens)
    for model in models.values():
        torch.testing.assert_close(model.encode(**tokens), expected, atol=1e-5, rtol=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="where there is a GPU, the package may be there too")
def test_missing_flash_attention_is_named(make_config: Callable[..., CellConfig]) -> None:
    with pytest.raises((ImportError, ValueError), match=r"(?i)flash.?attn|FlashAttention"):
        make_model(make_config("llama")).set_attn_implementation("flash_attention_2")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_gradient_checkpointing_gives_the_same_gradient(
    make_config: Callable[..., CellConfig], backbone: str, tokens: Cells
) -> None:
    model = CellForMaskedLM(make_config(backbone)).train()
    labels = tokens["input_ids"].masked_fill(tokens["attention_mask"] == 0, -100)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
            assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
        model.zero_grad()
        torch.manual_seed(0)  # dropout draws the same
        model(**tokens, labels=labels).loss.backward()
        gradients.append({key: weight.grad.clone() for key, weight in model.named_parameters()})
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, msg=key)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # within torch
# Code is generated for one backbone, which takes long; of the other the graph is traced and run as it is, and once
# more for a single cell, for which torch makes another graph.
@pytest.mark.parametrize(
    ("backbone", "backend", "shapes"),
    [
        pytest.param("bert", "inductor", [(4, 12), (3, 9)], id="bert-inductor"),
        pytest.param("llama", "aot_eager", [(4, 12), (2, 12), (3, 9), (1, 7)], id="llama-aot_eager"),
    ],
)
@torch.no_grad()
def test_compiled_models_give_the_same_vectors(
    make_config: Callable[..., CellConfig], backbone: str, backend: str, shapes: list[tuple[int, int]], tokens: Cells
) -> None:
    model = make_model(make_config(backbone, sizes={"num_hidden_layers": 1}))
    compiled = torch.compile(model, dynamic=True, backend=backend)
    for rows, width in shapes:
        # Copies, as minibatches are: a view has strides of its own, for which torch would compile again.
        inputs = {key: tensor[:rows, :width].clone() for key, tensor in tokens.items()}
        there = inputs["attention_mask"] == 1  # what stands at padding means nothing
        expected = model(**inputs).last_hidden_state[there]
        torch.testing.assert_close(compiled(**inputs).last_hidden_state[there], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_unknown_setting_is_named(backbone: str) -> None:
    """transformers itself takes any setting and ignores it."""
    with pytest.raises(
        ValueError, match=f"'{backbone}' has no setting 'num_layers'. Did you mean .*'num_hidden_layers'"
    ):
        backbone_config(backbone, num_layers=2)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("vit", "'vit' cannot be a backbone: its forward takes no inputs_embeds"),
        ("t5", "'t5' has an encoder and a decoder"),
        ("xlstm", "'xlstm' cannot be a backbone: its forward takes no attention_mask"),
        ("llava", "'llava' cannot be a backbone: its configuration has no hidden_size"),
        ("nystromformer", "Padding changes what model type 'nystromformer' computes.*Choose another"),
        ("yoso", "Padding changes what model type 'yoso' computes"),
        ("stablelm", "Padding changes what model type 'stablelm' computes.*is_causal=True"),
    ],
)
def test_other_models_are_refused(backbone: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CellModel(CellConfig(40, AutoConfig.for_model(backbone, is_causal=False)))


def test_models_of_several_parts_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="cannot be|has no setting"):
        backbone_config("higgs_audio_v2_tokenizer", hidden_size=16)


@pytest.mark.parametrize(
    ("backbone", "settings"),
    [
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}),
        (
            "phi3",
            {
                "original_max_position_embeddings": 8,
                "rope_parameters": {"rope_type": "longrope", "short_factor": [1.0] * 2, "long_factor": [4.0] * 2},
            },
        ),
    ],
)
def test_positions_that_depend_on_the_minibatch_are_refused(
    make_config: Callable[..., CellConfig], backbone: str, settings: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="depends on the longest cell of a minibatch"):
        make_config(backbone, sizes=settings)
    if backbone == "phi3":
        make_config(backbone, sizes=settings | {"original_max_position_embeddings": 32})


@torch.no_grad()
def test_a_configuration_object_will_do(tokens: Cells) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    for own in (BertConfig(**sizes), LlamaConfig(**sizes, is_causal=False)):
        model = make_model(CellConfig(40, own))
        assert type(model.backbone.config) is type(own)
        assert_depends_on_itself_alone(model, tokens)


def test_half_a_causal_bert_is_refused() -> None:
    """transformers would look backwards only where nothing is padding."""
    with pytest.raises(ValueError, match="attention of model type 'bert' sees both sides"):
        CellModel(CellConfig(40, BertConfig(is_causal=True)))


def test_the_table_says_what_is_true(make_config: Callable[..., CellConfig]) -> None:
    table = sfm.get.backbones()
    assert list(table.index) == list(BACKBONES)
    for name, row in table.iterrows():
        backbone = make_model(make_config(name)).backbone
        assert (row["positions"] == "RoPE") == ("Rotary" in str(backbone))
        assert row["grouped_query_attention"] == (name in DECODERS)
        assert row["can_be_causal"] == (name != "modernbert")


def test_nothing_unused_is_kept(make_config: Callable[..., CellConfig]) -> None:
    """Neither a second vocabulary nor a pooler is saved."""
    for name in BACKBONES:
        model = make_model(make_config(name))
        assert not [key for key in model.state_dict() if "pooler" in key or "word_embeddings" in key]
        built_in = AutoModel.from_config(model.config.backbone_config)
        assert sum(map(math.prod, (w.shape for w in model.backbone.parameters()))) < sum(
            math.prod(w.shape) for w in built_in.parameters()
        )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # within torch
@torch.no_grad()
def test_flex_attention_agrees(make_config: Callable[..., CellConfig], tokens: Cells) -> None:
    model = make_model(make_config("llama", sizes={"hidden_size": 64}))
    expected = model.encode(**tokens)
    model.set_attn_implementation("flex_attention")
    torch.testing.assert_close(model.encode(**tokens), expected, atol=1e-5, rtol=0)
