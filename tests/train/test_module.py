"""What each objective learns from, and that the loss does not depend on how it is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from sfm.nn import HIDDEN_VALUE, CellConfig, backbone_config
from sfm.train import _module
from sfm.train._causal import CausalCellModule
from sfm.train._masked import MaskedCellModule
from sfm.train._optimizer import parameter_groups, warmup_cosine
from sfm.train._pairs import PairedCellModule
from sfm.train._values import MaskedValueModule

if TYPE_CHECKING:
    from collections.abc import Callable

    from sfm.train._module import CellModule

VOCAB = 50
MODULES = {
    "genes": lambda config: MaskedCellModule(config, mask_probability=0.3),
    "values": lambda config: MaskedValueModule(config, mask_probability=0.3),
    "pairs": lambda config: PairedCellModule(config, pair_key="labels"),
    "next gene": CausalCellModule,
}
BY_CELL = ["genes", "values", "next gene"]
no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture
def make() -> Callable[[str], CellModule]:
    def make(objective: str) -> CellModule:
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_length": 64, **no_dropout}
        backbone = backbone_config("bert", is_causal=objective == "next gene", **sizes)
        options = {"special_token_ids": [0, 1, 2, 3], "eos_token_id": 3, "value_embedding": "bins"}
        config = CellConfig(VOCAB, backbone, type_vocab_size=2 * (objective == "pairs"), **options)
        return MODULES[objective](config)

    return make


@pytest.fixture
def minibatch() -> dict[str, torch.Tensor]:
    """Cells of 30, 20, 9 and 0 tokens."""
    mask = (torch.arange(30) < torch.tensor([[30], [20], [9], [0]])).long()
    ids = torch.randint(4, VOCAB, (4, 30), generator=torch.Generator().manual_seed(0))
    groups = {"label_index": torch.tensor([0, 0, 1, 1]), "cell_index": torch.arange(4)}
    return {"input_ids": ids * mask, "attention_mask": mask, "values": (1 + ids % 7) * mask * 1.0, **groups}


@pytest.mark.parametrize("objective", MODULES)
def test_validation_learns_from_the_same_example_each_time(
    make: Callable[[str], CellModule], minibatch: dict[str, torch.Tensor], objective: str
) -> None:
    module = make(objective)
    first, second = (module.eval().make_example(minibatch) for _ in range(2))
    assert all(torch.equal(first[key].nan_to_num(), second[key].nan_to_num()) for key in first)
    if objective != "next gene":
        labels = [module.train().make_example(minibatch)["labels"].nan_to_num() for _ in range(2)]
        assert not torch.equal(*labels)


@pytest.mark.parametrize("objective", ["genes", "values"])
def test_what_is_to_be_predicted_is_not_shown(
    make: Callable[[str], CellModule], minibatch: dict[str, torch.Tensor], objective: str
) -> None:
    example = make(objective).make_example(minibatch)
    hidden = example["labels"] != -100 if objective == "genes" else ~example["labels"].isnan()
    assert hidden.any()
    assert (example["values"][hidden] == HIDDEN_VALUE).all()
    assert torch.equal(example["values"][~hidden], minibatch["values"][~hidden])


@pytest.mark.parametrize("max_tokens", [1, 45, 1000])
@pytest.mark.parametrize("objective", BY_CELL)
def test_parts_give_the_loss_and_the_gradient_of_the_whole(
    make: Callable[[str], CellModule],
    minibatch: dict[str, torch.Tensor],
    objective: str,
    max_tokens: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = make(objective).eval()  # the same example each time
    results = []
    for limit in (None, max_tokens):
        monkeypatch.setattr(_module, "_MAX_TOKENS", {"cpu": limit})
        module.zero_grad()
        loss = module(minibatch)[2].loss
        (3 * loss).backward()
        results.append([loss, *(weight.grad for weight in module.parameters())])
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(module(minibatch)[2].loss, results[0][0])


def test_gradients_add_up_over_steps(
    make: Callable[[str], CellModule], minibatch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_module, "_MAX_TOKENS", {"cpu": 1})
    module = make("genes").eval()
    module(minibatch)[2].loss.backward()
    once = [weight.grad.clone() for weight in module.parameters()]
    module(minibatch)[2].loss.backward()
    for weight, gradient in zip(module.parameters(), once, strict=True):
        torch.testing.assert_close(weight.grad, 2 * gradient)


@pytest.mark.parametrize("objective", MODULES)
def test_likelihood_per_cell_adds_up(
    make: Callable[[str], CellModule], minibatch: dict[str, torch.Tensor], objective: str
) -> None:
    module = make(objective).eval()
    example = module.make_example(minibatch)
    loss = module(minibatch)[2]
    per_cell, n_targets = loss.reconstruction_loss["reconstruction_loss"], module.n_targets(example)
    assert per_cell.shape == (4,)
    torch.testing.assert_close(per_cell.sum() / n_targets.sum(), loss.loss)


@pytest.mark.parametrize("objective", MODULES)
def test_cells_without_tokens_give_a_finite_loss(
    make: Callable[[str], CellModule], minibatch: dict[str, torch.Tensor], objective: str
) -> None:
    empty = {key: torch.zeros_like(tensor) for key, tensor in minibatch.items()}
    module = make(objective).train()
    loss = module(empty)[2].loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(weight.grad is None or torch.isfinite(weight.grad).all() for weight in module.parameters())


def test_cells_end_unless_they_were_cut(make: Callable[[str], CellModule]) -> None:
    lengths = torch.tensor([[64], [10]])
    mask = (torch.arange(64) < lengths).long()
    ids = torch.randint(4, VOCAB, (2, 64)) * mask
    example = make("next gene").make_example({"input_ids": ids, "attention_mask": mask})
    assert example["input_ids"].shape == (2, 64)
    assert torch.equal(example["input_ids"][0], ids[0])
    assert example["labels"][1].tolist() == [*ids[1, :10].tolist(), 3, *[-100] * 53]


def test_starting_from_frequencies_gives_their_loss(
    make: Callable[[str], CellModule], minibatch: dict[str, torch.Tensor]
) -> None:
    """With a gene embedding of zeros, only the bias is left, which must be the log frequency."""
    module = make("genes")
    counts = torch.arange(VOCAB)
    assert module.starts_from_frequencies
    module.start_from_frequencies(counts)
    assert not module.starts_from_frequencies
    module.network.cell.embedder.genes.weight.data.zero_()
    labels = module.eval().make_example(minibatch)["labels"]
    genes = labels[labels >= 0]
    expected = -((counts[genes] + 1) / (counts + 1).sum()).log().mean()
    torch.testing.assert_close(module(minibatch)[2].loss, expected)


def test_frozen_head_does_not_start_from_frequencies(make: Callable[[str], CellModule]) -> None:
    module = make("genes")
    module.network.requires_grad_(requires_grad=False)
    assert not module.starts_from_frequencies


def test_warm_up_and_cosine() -> None:
    factor = warmup_cosine(100, 0.1, 0.05)
    values = torch.tensor([factor(step) for step in range(101)])
    assert values[0] == pytest.approx(0.1)
    assert values.argmax() == 9
    assert (values[10:].diff() <= 0).all()
    assert values[100] == pytest.approx(0.05)


@pytest.mark.parametrize("head_lr", [None, 0.5])
def test_each_trained_weight_is_in_one_group(make: Callable[[str], CellModule], head_lr: float | None) -> None:
    network = make("genes").network
    network.cell.embedder.requires_grad_(requires_grad=False)
    groups = parameter_groups(network, lr=0.1, head_lr=head_lr, weight_decay=0.01)
    found = {id(weight): group for group in groups for weight in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups)
    for name, weight in network.named_parameters():
        assert (id(weight) in found) == weight.requires_grad
        if weight.requires_grad:
            group = found[id(weight)]
            assert group["lr"] == (0.1 if head_lr is None or name.startswith("cell.") else head_lr)
            assert group["weight_decay"] == (0.01 if weight.ndim >= 2 else 0.0)
