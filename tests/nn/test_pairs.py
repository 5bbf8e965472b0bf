from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from sfm.nn import CellForPairPrediction, CellForPreTraining, join_pairs, mask_tokens, sample_pairs

if TYPE_CHECKING:
    from collections.abc import Callable

    from sfm.nn import CellConfig

Cells = dict[str, torch.Tensor]
CLS, SEP = 2, 3


def make_minibatch(lengths: list[int], *, width: int, left: bool = False, start: int = 4) -> Cells:
    """Cells of `<cls>` and so many genes, padded on one side."""
    ids, mask = torch.zeros(len(lengths), width, dtype=torch.long), torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        cell = torch.tensor([CLS, *range(start, start + length)])
        at = slice(width - length - 1, None) if left else slice(0, length + 1)
        ids[row, at], mask[row, at] = cell, 1
    return {"input_ids": ids, "attention_mask": mask, "values": ids.float() / 10 * (ids > 3)}


@given(
    lengths=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=5),
    max_length=st.none() | st.integers(3, 24),
    left=st.booleans(),
)
def test_joined_sequences_hold_both_cells(lengths: list[tuple[int, int]], max_length: int | None, left: bool) -> None:
    first = make_minibatch([a for a, _ in lengths], width=10, left=left)
    second = make_minibatch([b for _, b in lengths], width=13, left=left, start=20)
    joined = join_pairs(first, second, sep_token_id=SEP, cls_token_id=CLS, max_length=max_length)
    for row, (n_first, n_second) in enumerate(lengths):
        there = joined["attention_mask"][row].bool()
        tokens = joined["input_ids"][row, there].tolist()
        middle = tokens.index(SEP)
        ahead, after = tokens[:middle], tokens[middle + 1 : -1]
        assert there.tolist() == sorted(there.tolist(), reverse=True), "padding is on the right"
        assert ahead == [CLS, *range(4, 4 + n_first)][: len(ahead)]
        assert after == list(range(20, 20 + n_second))[: len(after)]
        assert tokens[-1] == SEP
        assert joined["token_type_ids"][row, there].tolist() == [0] * (middle + 1) + [1] * (len(after) + 1)
        whole = n_first + 1 + n_second + 2
        assert len(tokens) == (whole if max_length is None else min(whole, max_length))
        if max_length is not None and whole > max_length and len(ahead) <= n_first and len(after) < n_second:
            assert abs(len(ahead) - len(after)) <= 1, "both are cut to the same length"
        expected = [token / 10 if token > 3 else 0.0 for token in tokens]
        torch.testing.assert_close(joined["values"][row, there], torch.tensor(expected))


def test_joining_does_not_depend_on_padding() -> None:
    lengths = ([5, 2, 0], [3, 7, 4])
    expected = join_pairs(*(make_minibatch(part, width=8) for part in lengths), sep_token_id=SEP, cls_token_id=CLS)
    for width, left in ((15, False), (8, True), (20, True)):
        parts = (make_minibatch(part, width=width, left=left) for part in lengths)
        joined = join_pairs(*parts, sep_token_id=SEP, cls_token_id=CLS)
        assert all(torch.equal(joined[key], expected[key]) for key in expected)


@given(groups=st.lists(st.integers(-1, 3), min_size=1, max_size=30), seed=st.integers(0, 99))
def test_partners_are_what_the_labels_say(groups: list[int], seed: int) -> None:
    codes = torch.tensor(groups)
    pairs = sample_pairs(codes, generator=torch.Generator().manual_seed(seed))
    again = sample_pairs(codes, generator=torch.Generator().manual_seed(seed))
    assert all(torch.equal(*both) for both in zip(pairs, again, strict=True))
    for i, (partner, label) in enumerate(zip(pairs.partners.tolist(), pairs.labels.tolist(), strict=True)):
        others = [group for j, group in enumerate(groups) if j != i and group >= 0]
        if groups[i] < 0 or not others:
            assert (partner, label) == (i, -100)
        else:
            assert partner != i
            assert groups[partner] >= 0
            assert label == (groups[partner] == groups[i])


def test_half_of_the_partners_are_of_the_same_group() -> None:
    groups = torch.arange(400) % 7
    first, second = (sample_pairs(groups, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert first.labels.sum() == 200
    assert not torch.equal(first.partners, second.partners)
    assert len(first.partners.unique()) > 200


@pytest.fixture
def make_model(make_config: Callable[..., CellConfig]) -> Callable[..., CellForPairPrediction]:
    def make(pair_mode: str, **settings: Any) -> CellForPairPrediction:
        torch.manual_seed(0)
        segments = {"type_vocab_size": 2} if pair_mode == "joint" else {}
        return CellForPairPrediction(make_config(pair_mode=pair_mode, **segments, **settings)).eval()

    return make


def pair_inputs(cells: Cells) -> Cells:
    tokens = {key: cells[key] for key in ("input_ids", "attention_mask")}
    return tokens | {f"pair_{key}": tensor.roll(1, 0) for key, tensor in tokens.items()}


@torch.no_grad()
def test_joining_inside_and_outside_are_the_same(
    make_model: Callable[..., CellForPairPrediction], cells: Cells
) -> None:
    model = make_model("joint")
    inputs = pair_inputs(cells)
    first = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    second = {key: inputs[f"pair_{key}"] for key in first}
    joined = join_pairs(first, second, sep_token_id=SEP, cls_token_id=CLS, max_length=32)
    torch.testing.assert_close(model(**inputs).logits, model(**joined).logits)
    swapped = joined | {"token_type_ids": 1 - joined["token_type_ids"]}
    assert not torch.allclose(model(**joined).logits, model(**swapped).logits)


@torch.no_grad()
def test_cosine_compares_cell_vectors(make_model: Callable[..., CellForPairPrediction], cells: Cells) -> None:
    model = make_model("cosine", pair_margin=-0.5)
    inputs = pair_inputs(cells)
    first = model.encode(inputs["input_ids"], inputs["attention_mask"])
    second = model.encode(inputs["pair_input_ids"], inputs["pair_attention_mask"])
    labels = torch.tensor([1, 0, 0, -100])
    output = model(**inputs, labels=labels)
    torch.testing.assert_close(output.logits, F.cosine_similarity(first, second))
    signs = labels[:3] * 2 - 1
    torch.testing.assert_close(output.loss, F.cosine_embedding_loss(first[:3], second[:3], signs, margin=-0.5))


@torch.no_grad()
def test_contrast_is_between_partners(make_model: Callable[..., CellForPairPrediction], cells: Cells) -> None:
    model = make_model("contrastive", pair_temperature=0.5)
    inputs = pair_inputs(cells)
    labels = torch.tensor([1, 0, 1, -100])
    output = model(**inputs, labels=labels)
    assert output.logits.shape == (4, 4)
    rows, columns = output.logits.log_softmax(dim=1).diagonal(), output.logits.log_softmax(dim=0).diagonal()
    torch.testing.assert_close(output.loss, -(rows[[0, 2]] + columns[[0, 2]]).mean() / 2)


@pytest.mark.parametrize("pair_mode", ["cosine", "contrastive"])
def test_cell_vectors_are_trained(
    make_model: Callable[..., CellForPairPrediction], pair_mode: str, cells: Cells
) -> None:
    model = make_model(pair_mode).train()
    output = model(**pair_inputs(cells), labels=torch.tensor([1, 0, 1, 0]))
    output.loss.backward()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters())
    with pytest.raises(ValueError, match=f"pair_mode='{pair_mode}' encodes two cells"):
        model(cells["input_ids"], cells["attention_mask"])


@pytest.mark.parametrize("pair_mode", ["joint", "cosine", "contrastive"])
def test_pairs_are_learned(make_model: Callable[..., CellForPairPrediction], pair_mode: str) -> None:
    """Cells that share a set of genes belong together."""
    model = make_model(pair_mode, initializer_range=0.5).train()
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    mask = torch.ones(32, 6, dtype=torch.long)

    def draw() -> tuple[Cells, torch.Tensor]:
        groups = torch.randint(2, (32,), generator=generator)
        genes = torch.rand(32, 15, generator=generator).argsort(dim=1)[:, :5] + 5 + 15 * groups[:, None]
        ids = torch.cat([torch.full((32, 1), CLS), genes], dim=1)
        pairs = sample_pairs(groups, generator=generator)
        inputs = {"input_ids": ids, "attention_mask": mask, "pair_attention_mask": mask}
        return inputs | {"pair_input_ids": ids[pairs.partners]}, pairs.labels

    for _ in range(120 if pair_mode == "joint" else 30):
        inputs, labels = draw()
        optimizer.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
    inputs, labels = draw()
    with torch.no_grad():
        logits = model.eval()(**inputs).logits
    score = {"joint": lambda: logits[:, 1] - logits[:, 0], "cosine": lambda: logits, "contrastive": logits.diagonal}
    together = score[pair_mode]()
    assert together[labels == 1].min() > together[labels == 0].median()
    assert together[labels == 1].median() > together[labels == 0].max()


@torch.no_grad()
def test_losses_of_pretraining_are_added(make_config: Callable[..., CellConfig], cells: Cells) -> None:
    torch.manual_seed(0)
    model = CellForPreTraining(make_config(type_vocab_size=2)).eval()
    inputs = pair_inputs(cells)
    first = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    joined = join_pairs(first, {key: inputs[f"pair_{key}"] for key in first}, sep_token_id=SEP, cls_token_id=CLS)
    tokens = {key: joined[key] for key in first}
    masked = mask_tokens(
        **tokens,
        vocab_size=40,
        mask_token_id=1,
        special_token_ids=[0, 1, 2, 3],
        generator=torch.Generator().manual_seed(0),
    )
    inputs = joined | {"input_ids": masked.input_ids}
    pair_labels = torch.tensor([1, 0, 1, -100])
    both = model(**inputs, labels=masked.labels, pair_labels=pair_labels)
    torch.testing.assert_close(both.loss, both.masked_loss + both.pair_loss)
    torch.testing.assert_close(model(**inputs, labels=masked.labels).loss, both.masked_loss)
    torch.testing.assert_close(model(**inputs, pair_labels=pair_labels).loss, both.pair_loss)
    torch.testing.assert_close(both.pair_loss, F.cross_entropy(both.pair_logits[:3], pair_labels[:3]))
    model.config.sparse_prediction = False
    torch.testing.assert_close(model(**inputs, labels=masked.labels).loss, both.masked_loss)


@pytest.mark.parametrize("cls", [CellForPreTraining, CellForPairPrediction])
def test_joint_reading_needs_segments(make_config: Callable[..., CellConfig], cls: type) -> None:
    with pytest.raises(ValueError, match="needs token types, but type_vocab_size=0"):
        cls(make_config())
    with pytest.raises(ValueError, match="needs a separator, but sep_token_id=None"):
        cls(make_config(type_vocab_size=2, eos_token_id=None))


def test_token_types_need_an_embedding(make_config: Callable[..., CellConfig], cells: Cells) -> None:
    model = CellForPairPrediction(make_config(pair_mode="cosine"))
    with pytest.raises(ValueError, match="this model has no token types"):
        model.cell(cells["input_ids"], cells["attention_mask"], token_type_ids=cells["attention_mask"])
