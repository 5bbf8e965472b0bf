from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from sfm.nn import BACKBONES, CellForCausalLM, EachGeneOnce, causal_labels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sfm.nn import CellConfig

Cells = dict[str, torch.Tensor]

CAUSAL = [name for name in BACKBONES if name != "modernbert"]
# Not among the tested backbones, but made of the same parts.
OTHERS = ["gpt2", "modernbert-decoder"]
EOS = 3


@pytest.fixture
def make_model(make_config: Callable[..., CellConfig]) -> Callable[..., CellForCausalLM]:
    def make(backbone: str = "llama", *, sizes: dict[str, Any] | None = None, **settings: Any) -> CellForCausalLM:
        torch.manual_seed(0)
        model = CellForCausalLM(make_config(backbone, sizes={"is_causal": True} | (sizes or {}), **settings)).eval()
        # Far from uniform, so that two ways to the same tokens cannot agree by chance, nor differ by rounding.
        with torch.no_grad():
            model.cell.embedder.genes.weight.mul_(30)
        return model

    return make


def change_last(cells: Cells) -> Cells:
    """The cells with another gene, and another value, at the end of the first."""
    ids, values = cells["input_ids"].clone(), cells["values"].clone()
    ids[0, -1] = 4 + (ids[0, -1] - 3) % 36
    values[0, -1] += 1
    return cells | {"input_ids": ids, "values": values}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("backbone", [*CAUSAL, *OTHERS])
@torch.no_grad()
def test_later_tokens_are_not_seen(
    make_model: Callable[..., CellForCausalLM], backbone: str, attention: str, cells: Cells
) -> None:
    model = make_model(backbone, value_embedding="continuous")
    model.set_attn_implementation(attention)
    before, after = model(**cells).logits, model(**change_last(cells)).logits
    assert torch.equal(before[0, :-1], after[0, :-1])
    assert not torch.equal(before[0, -1], after[0, -1])


@torch.no_grad()
def test_each_position_predicts_the_next_token(make_model: Callable[..., CellForCausalLM], cells: Cells) -> None:
    model = make_model()
    del cells["values"]
    labels = causal_labels(**cells)
    logits = model(**cells).logits
    expected = [
        F.cross_entropy(logits[i, t], labels[i, t + 1])
        for i, length in enumerate([12, 7, 4])
        for t in range(length - 1)
    ]
    torch.testing.assert_close(model(**cells, labels=labels).loss, torch.stack(expected).mean())
    only = torch.full_like(labels, -100)
    only[1, 4] = labels[1, 4]
    torch.testing.assert_close(model(**cells, labels=only).loss, F.cross_entropy(logits[1, 3], labels[1, 4]))


@torch.no_grad()
def test_sparse_full_and_left_padded_losses_agree(make_model: Callable[..., CellForCausalLM], cells: Cells) -> None:
    model = make_model("bert")
    del cells["values"]
    sparse = model(**cells, labels=causal_labels(**cells))
    assert sparse.logits.shape == (11 + 6 + 3, 40)
    left = {
        key: torch.stack([row.roll(12 - n) for row, n in zip(t, [12, 7, 4, 0], strict=True)])
        for key, t in cells.items()
    }
    torch.testing.assert_close(model(**left, labels=causal_labels(**left)).loss, sparse.loss)
    model.config.sparse_prediction = False
    full = model(**cells, labels=causal_labels(**cells))
    assert full.logits.shape == (4, 12, 40)
    torch.testing.assert_close(full.loss, sparse.loss)


@torch.no_grad()
def test_logits_to_keep(make_model: Callable[..., CellForCausalLM], cells: Cells) -> None:
    model = make_model()
    del cells["values"]
    logits = model(**cells).logits
    torch.testing.assert_close(model(**cells, logits_to_keep=2).logits, logits[:, -2:])
    chosen = torch.tensor([0, 5])
    torch.testing.assert_close(model(**cells, logits_to_keep=chosen).logits, logits[:, chosen])


@pytest.mark.parametrize("backbone", [*CAUSAL, *OTHERS])
@torch.no_grad()
def test_cache_continues_where_it_was_left(
    make_model: Callable[..., CellForCausalLM], backbone: str, cells: Cells
) -> None:
    model = make_model(backbone)
    ids = cells["input_ids"][:1]
    whole = model(ids).logits
    start = model(ids[:, :5], use_cache=True)
    rest = model(ids[:, 5:], past_key_values=start.past_key_values, use_cache=True)
    torch.testing.assert_close(torch.cat([start.logits, rest.logits], dim=1), whole, atol=1e-4, rtol=1e-4)
    assert model(ids).past_key_values is None


@pytest.mark.parametrize("backbone", [*CAUSAL, *OTHERS])
def test_cache_and_padding_do_not_change_what_is_generated(
    make_model: Callable[..., CellForCausalLM], backbone: str
) -> None:
    model = make_model(backbone)
    first = torch.tensor([[2, 5, 9]])
    alone = model.generate(first)
    assert torch.equal(model.generate(first, use_cache=False), alone)
    assert torch.equal(model.generate(first, cache_implementation="static"), alone)
    prompts = torch.tensor([[0, 0, 2, 5, 9], [2, 7, 6, 8, 11]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    together = model.generate(prompts, attention_mask=mask)
    width = min(alone.shape[1], together.shape[1] - 2)
    assert width > 3
    assert torch.equal(together[0, 2 : 2 + width], alone[0, :width])


@pytest.mark.parametrize("sizes", [{"sliding_window": 4}, {}])
def test_sliding_window_generates_with_and_without_cache(
    make_model: Callable[..., CellForCausalLM], sizes: dict[str, int]
) -> None:
    model = make_model("phi3", sizes=sizes)
    first = torch.tensor([[2, 5, 9, 11, 20, 7]])
    assert torch.equal(model.generate(first, use_cache=False), model.generate(first))


@pytest.mark.parametrize("options", [{}, {"do_sample": True}, {"num_beams": 3}, {"do_sample": True, "top_p": 0.9}])
@pytest.mark.parametrize("backbone", CAUSAL)
def test_generated_cells_hold_each_gene_once(
    make_model: Callable[..., CellForCausalLM], backbone: str, options: dict[str, Any]
) -> None:
    model = make_model(backbone)
    torch.manual_seed(0)
    prompts = torch.tensor([[2], [2]]) if not options.get("do_sample") else torch.full((20, 1), 2)
    generated = model.generate(prompts, **options)
    for cell in generated.tolist():
        end = cell.index(EOS) if EOS in cell else len(cell)
        genes = cell[1:end]
        assert cell[0] == 2
        assert len(set(genes)) == len(genes)
        assert min(genes, default=4) >= 4
        assert set(cell[end + 1 :]) <= {0}
        assert end < len(cell) or len(cell) == 32


def test_sampling_follows_the_model(make_model: Callable[..., CellForCausalLM]) -> None:
    """All genes can be drawn, not only those that transformers would leave by default."""
    model = make_model("bert")
    with torch.no_grad():
        model.head.transform.weight.zero_()
        model.head.norm.weight.zero_()
        model.head.bias[:] = torch.linspace(-1, 1, 40)
    torch.manual_seed(0)
    second = model.generate(do_sample=True, max_new_tokens=1, num_return_sequences=20_000)[:, 1]
    allowed = torch.arange(3, 40)
    expected = model.head.bias[allowed].softmax(dim=0)
    assert torch.isin(second, allowed).all()
    drawn = torch.bincount(second, minlength=40)[3:] / 20_000
    assert (drawn - expected).abs().max() < 0.01


def test_a_cell_of_all_genes_ends(make_model: Callable[..., CellForCausalLM]) -> None:
    everything = torch.cat([torch.tensor([2]), torch.arange(4, 35)])[None, :31]
    model = make_model()
    assert model.generate(everything).shape[1] == 32
    scores = torch.zeros(1, 40)
    used = torch.arange(4, 40)[None]
    after = EachGeneOnce([0, 1, 2, 3], eos_token_id=3)(used, scores)
    assert after.isfinite().nonzero().tolist() == [[0, 3]]
    without_end = EachGeneOnce([0, 1, 2, 3], eos_token_id=None, pad_token_id=0)(used, scores)
    assert without_end.isfinite().nonzero().tolist() == [[0, 0]]
    assert not EachGeneOnce([0, 1, 2, 3], eos_token_id=None, pad_token_id=0)(used[:, 1:], scores)[0, 0].isfinite()


def test_further_rules_are_kept(make_model: Callable[..., CellForCausalLM]) -> None:
    generated = make_model().generate(torch.tensor([[2]]), bad_words_ids=[[7], [8]], min_new_tokens=31)
    assert generated.shape == (1, 32)
    assert not torch.isin(generated, torch.tensor([7, 8, EOS])).any()


def test_values_are_not_generated(make_model: Callable[..., CellForCausalLM]) -> None:
    with pytest.raises(ValueError, match="makes genes, not their values, and value_embedding='bins'"):
        make_model(value_embedding="bins").generate(torch.tensor([[2]]))


def test_padding_on_the_right_is_refused(make_model: Callable[..., CellForCausalLM]) -> None:
    with pytest.raises(ValueError, match="Pad them on the left"):
        make_model().generate(torch.tensor([[2, 0]]), attention_mask=torch.tensor([[1, 0]]))


def test_a_loaded_model_generates_the_same(make_model: Callable[..., CellForCausalLM], tmp_path: Path) -> None:
    model = make_model()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.generate(max_new_tokens=9), model.generate(max_new_tokens=9))


def test_the_order_of_genes_is_learned(make_model: Callable[..., CellForCausalLM]) -> None:
    model = make_model(sizes={"hidden_size": 32}).train()
    cell = torch.tensor([[2, 9, 4, 30, 17, 3]])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        model(cell, labels=cell).loss.backward()
        optimizer.step()
    assert torch.equal(model.eval().generate(), cell)
