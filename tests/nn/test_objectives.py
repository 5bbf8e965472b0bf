"""Every objective on every backbone: gradient, saving, the auto class, and independence of a cell from the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModel

import sfm
from sfm.nn import (
    BACKBONES,
    OBJECTIVES,
    CellForCausalLM,
    causal_labels,
    join_pairs,
    mask_tokens,
    mask_values,
    stack_choices,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sfm.nn import CellConfig, CellModelWithHead

Cells = dict[str, torch.Tensor]

COMBINATIONS = [
    (backbone, name) for backbone in BACKBONES for name in OBJECTIVES if (backbone, name) != ("modernbert", "next gene")
]
SPECIAL_IDS = [0, 1, 2, 3]
# Objectives with logits per token; the others have logits per cell.
PER_TOKEN = {"masked genes", "masked values", "next gene", "gene labels", "span"}
READS_VALUES = {"masked values", "cell labels"}


@pytest.fixture
def backbone(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def config(make_config: Callable[..., CellConfig], backbone: str, name: str) -> CellConfig:
    settings: dict[str, Any] = {"num_labels": 3}
    if name in READS_VALUES:
        settings["value_embedding"] = "continuous"
    if name == "masked values":
        settings["value_likelihood"] = "zinb"
    if name in ("pairs", "pretraining", "choice"):
        settings["type_vocab_size"] = 2
    return make_config(backbone, sizes={"is_causal": name == "next gene"}, **settings)


@pytest.fixture
def model(config: CellConfig, name: str) -> CellModelWithHead:
    torch.manual_seed(0)
    return OBJECTIVES[name].model(config).eval()


def inputs_of(name: str, cells: Cells, rows: list[int], width: int) -> Cells:
    """Arguments of `forward` without labels: some of the cells, padded to a width; partners are the next cells."""
    chosen = {key: torch.nn.functional.pad(tensor, (0, 12))[rows, :width] for key, tensor in cells.items()}
    partners = {key: tensor.roll(-1, 0)[rows] for key, tensor in cells.items()}
    if name not in READS_VALUES:
        del chosen["values"], partners["values"]
    joined = join_pairs(chosen, partners, sep_token_id=3, cls_token_id=2)
    match name:
        case "pairs":
            return chosen | {f"pair_{key}": tensor for key, tensor in partners.items()}
        case "pretraining":
            return joined
        case "choice":
            reverse = join_pairs(partners, chosen, sep_token_id=3, cls_token_id=2)
            return stack_choices([joined, reverse])
    return chosen


def labelled(name: str, cells: Cells) -> dict[str, Any]:
    """Arguments of `forward` with labels, for all cells."""
    inputs = inputs_of(name, cells, [0, 1, 2, 3], 12)
    seed = torch.Generator().manual_seed(0)
    special = {"special_token_ids": SPECIAL_IDS, "probability": 0.5, "generator": seed}
    tokens = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    yes_no = torch.tensor([1, 0, 1, -100])
    labels: dict[str, Any]
    match name:
        case "masked genes" | "pretraining":
            masked = mask_tokens(**tokens, vocab_size=40, mask_token_id=1, **special)
            labels = {"input_ids": masked.input_ids, "labels": masked.labels}
            if name == "pretraining":
                labels["pair_labels"] = yes_no
        case "masked values":
            labels = mask_values(**inputs, **special)._asdict()
        case "next gene":
            labels = {"labels": causal_labels(**tokens)}
        case "cell labels":
            labels = {"labels": torch.tensor([0, 2, 1, -100])}
        case "gene labels":
            labels = {"labels": (inputs["input_ids"] % 3).masked_fill(inputs["attention_mask"] == 0, -100)}
        case "span":
            labels = {"start_positions": torch.tensor([1, 3, 1, -100]), "end_positions": torch.tensor([11, 4, 3, -100])}
        case _:
            labels = {"labels": yes_no}
    return inputs | labels


def logits_per_cell(model: CellModelWithHead, name: str, cells: Cells, rows: list[int], width: int) -> list[Any]:
    """Logits of each cell, those of padding left out."""
    output = model(**inputs_of(name, cells, rows, width))
    lengths = cells["attention_mask"].sum(dim=1)[rows]
    if name == "pretraining":
        return list(output.pair_logits)
    if name in PER_TOKEN:
        return [logits[:length] for logits, length in zip(output.logits, lengths, strict=True)]
    return list(output.logits)


@pytest.mark.parametrize(("backbone", "name"), COMBINATIONS, indirect=True)
def test_every_weight_is_trained(model: CellModelWithHead, name: str, cells: Cells) -> None:
    output = model.train()(**labelled(name, cells))
    assert torch.isfinite(output.loss)
    output.loss.backward()
    gradients = {key: weight.grad for key, weight in model.named_parameters()}
    assert [key for key, gradient in gradients.items() if gradient is None] == []
    assert [key for key, gradient in gradients.items() if not torch.isfinite(gradient).all()] == []
    # Keys of a softmax have no gradient from their bias, and some models start with weights of zero behind others.
    assert sum(bool(gradient.any()) for gradient in gradients.values()) > 0.8 * len(gradients)


@pytest.mark.parametrize(("backbone", "name"), COMBINATIONS, indirect=True)
@torch.no_grad()
def test_a_cell_depends_on_itself_alone(model: CellModelWithHead, name: str, cells: Cells) -> None:
    """Whatever its neighbours, their order, the size of the minibatch and the padding."""
    together = logits_per_cell(model, name, cells, [0, 1, 2, 3], 12)
    others = [
        logits_per_cell(model, name, cells, [3, 2, 1, 0], 12)[::-1],
        logits_per_cell(model, name, cells, [0, 1, 2, 3], 20),
        [logits_per_cell(model, name, cells, [i], width)[0] for i, width in enumerate([12, 7, 4, 1])],
    ]
    assert all(torch.isfinite(logits).all() for logits in together)
    for other in others:
        for expected, logits in zip(together, other, strict=True):
            torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("backbone", "name"), COMBINATIONS, indirect=True)
@torch.no_grad()
def test_encode_depends_on_the_cell_alone(model: CellModelWithHead, name: str, cells: Cells) -> None:
    together = model.encode(**cells)
    assert together.shape == (4, 16)
    assert (together[3] == 0).all()
    flipped = {key: tensor.flip(0) for key, tensor in cells.items()}
    for row, length in ((0, 12), (1, 7), (2, 4)):
        alone = {key: tensor[row : row + 1, :length] for key, tensor in cells.items()}
        torch.testing.assert_close(model.encode(**alone)[0], together[row], atol=1e-5, rtol=0)
        left = {key: torch.nn.functional.pad(tensor, (5, 0)) for key, tensor in alone.items()}
        torch.testing.assert_close(model.encode(**left)[0], together[row], atol=1e-5, rtol=0)
    torch.testing.assert_close(model.encode(**flipped).flip(0), together, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("backbone", "name"), COMBINATIONS, indirect=True)
@torch.no_grad()
def test_saving_and_loading_changes_nothing(model: CellModelWithHead, name: str, cells: Cells, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    objective = OBJECTIVES[name]
    loaded = (objective.auto_class or objective.model).from_pretrained(tmp_path).eval()  # type: ignore[attr-defined]
    assert type(loaded) is objective.model
    inputs = inputs_of(name, cells, [0, 1, 2, 3], 12)
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    base = AutoModel.from_pretrained(tmp_path).eval()
    assert torch.equal(base.encode(**cells), model.encode(**cells))


@pytest.mark.parametrize(("backbone", "name"), COMBINATIONS, indirect=True)
def test_a_minibatch_without_labels_has_no_loss_but_a_gradient(
    model: CellModelWithHead, name: str, cells: Cells
) -> None:
    inputs = labelled(name, cells)
    for key, tensor in inputs.items():
        if "labels" in key or "positions" in key:
            inputs[key] = torch.full_like(tensor, float("nan") if tensor.is_floating_point() else -100)
    output = model(**inputs)
    assert output.loss == 0
    output.loss.backward()
    assert all(weight.grad is None or not weight.grad.any() for weight in model.parameters())


@pytest.mark.parametrize("name", OBJECTIVES, indirect=True)
@pytest.mark.parametrize("backbone", ["bert"], indirect=True)
def test_outputs_are_named_as_elsewhere(model: CellModelWithHead, name: str, cells: Cells) -> None:
    model.set_attn_implementation("eager")
    output = model(**labelled(name, cells), output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == 3
    assert len(output.attentions) == 2
    assert output.loss.dtype == output.logits.dtype == torch.float32


@pytest.mark.parametrize("name", OBJECTIVES, indirect=True)
@pytest.mark.parametrize("backbone", ["bert"], indirect=True)
def test_models_fit_the_protocol(model: CellModelWithHead, name: str) -> None:
    assert isinstance(model, sfm.ModelProtocol)


@pytest.mark.parametrize("name", OBJECTIVES, indirect=True)
@pytest.mark.parametrize("backbone", ["llama"], indirect=True)
def test_mixed_precision_keeps_the_loss_in_float32(model: CellModelWithHead, name: str, cells: Cells) -> None:
    inputs = labelled(name, cells)
    exact = model(**inputs).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(**inputs).loss
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "next gene"], indirect=True)
@pytest.mark.parametrize("backbone", ["bert"], indirect=True)
def test_a_new_head_goes_on_pretrained_weights(
    make_config: Callable[..., CellConfig], model: CellModelWithHead, name: str, tmp_path: Path
) -> None:
    """What the two have in common is kept, and a head of another objective is never taken for one's own."""
    model.save_pretrained(tmp_path)
    for other in ("masked genes", "cell labels", "span", "choice"):
        loaded = OBJECTIVES[other].model.from_pretrained(tmp_path)
        for key, weight in model.cell.state_dict().items():
            assert torch.equal(loaded.cell.state_dict()[key], weight), key
        shared = set(loaded.head.state_dict()) & set(model.head.state_dict())
        assert not shared or type(loaded.head) is type(model.head)


@pytest.mark.parametrize("settings", [{}, {"is_causal": False}])
def test_next_genes_need_a_causal_backbone(make_config: Callable[..., CellConfig], settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="'modernbert' as configured sees both sides.*is_causal=True"):
        CellForCausalLM(make_config("modernbert"))
    with pytest.raises(ValueError, match="attention of model type 'modernbert' sees both sides"):
        CellForCausalLM(make_config("modernbert", sizes={"is_causal": True}))
    with pytest.raises(ValueError, match="'llama' as configured sees both sides"):
        CellForCausalLM(make_config("llama"))
