from __future__ import annotations

import pytest
import torch

from sfm.genes import GeneVocabulary
from sfm.nn import HIDDEN_VALUE, CellConfig, backbone_config, mask_tokens
from sfm.nn._masking import IGNORED
from sfm.tokenizers import RankTokenizer

VOCAB, MASK, SPECIAL = 1000, 1, [0, 1, 2, 3]


@pytest.fixture
def minibatch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(4, VOCAB, (200, 100), generator=generator)
    input_ids[:, 0] = 2
    attention_mask = (torch.arange(100) < torch.randint(1, 101, (200, 1), generator=generator)).long()
    values = torch.rand(200, 100, generator=generator) * attention_mask
    return {"input_ids": input_ids * attention_mask, "attention_mask": attention_mask, "values": values}


def mask(minibatch: dict[str, torch.Tensor], seed: int = 0, probability: float = 0.15) -> tuple[torch.Tensor, ...]:
    return mask_tokens(
        **minibatch,
        vocab_size=VOCAB,
        mask_token_id=MASK,
        special_token_ids=SPECIAL,
        probability=probability,
        generator=torch.Generator().manual_seed(seed),
    )


def test_shares(minibatch: dict[str, torch.Tensor]) -> None:
    masked, _, labels = mask(minibatch)
    chosen = labels != IGNORED
    genes = minibatch["attention_mask"].sum() - len(labels)  # one <cls> per cell
    assert abs(chosen.sum() / genes - 0.15) < 0.02
    assert abs((masked[chosen] == MASK).float().mean() - 0.8) < 0.05
    assert abs((masked[chosen] == labels[chosen]).float().mean() - 0.1) < 0.05


def test_labels_are_the_hidden_genes(minibatch: dict[str, torch.Tensor]) -> None:
    masked, _, labels = mask(minibatch)
    chosen = labels != IGNORED
    assert torch.equal(labels[chosen], minibatch["input_ids"][chosen])
    assert torch.equal(masked[~chosen], minibatch["input_ids"][~chosen])


def test_special_tokens_are_neither_chosen_nor_drawn(minibatch: dict[str, torch.Tensor]) -> None:
    masked, _, labels = mask(minibatch, probability=0.9)
    chosen = labels != IGNORED
    assert not torch.isin(labels[chosen], torch.tensor(SPECIAL)).any()
    assert not torch.isin(masked[chosen], torch.tensor([0, 2, 3])).any()


def test_values_of_hidden_genes_are_hidden(minibatch: dict[str, torch.Tensor]) -> None:
    _, values, labels = mask(minibatch)
    chosen = labels != IGNORED
    assert (values[chosen] == HIDDEN_VALUE).all()
    assert torch.equal(values[~chosen], minibatch["values"][~chosen])


def test_every_cell_with_a_gene_hides_one(minibatch: dict[str, torch.Tensor]) -> None:
    _, _, labels = mask(minibatch, probability=0.0)
    has_gene = minibatch["attention_mask"].sum(dim=1) > 1
    assert torch.equal((labels != IGNORED).sum(dim=1), has_gene.long())


def test_seed_decides(minibatch: dict[str, torch.Tensor]) -> None:
    assert torch.equal(mask(minibatch, 1)[0], mask(minibatch, 1)[0])
    assert not torch.equal(mask(minibatch, 1)[0], mask(minibatch, 2)[0])


def test_gaps_between_token_ids_are_no_genes() -> None:
    vocabulary = GeneVocabulary(["CD3E", "MS4A1", "LYZ"], token_ids=[10, 20, 30])
    tokenizer = RankTokenizer(vocabulary, max_length=8)
    config = CellConfig.for_tokenizer(tokenizer, backbone_config("bert", hidden_size=16, num_attention_heads=2))
    ids = torch.tensor([[2, 10, 20, 30]] * 200)
    masked = mask_tokens(
        ids,
        torch.ones_like(ids),
        vocab_size=config.vocab_size,
        mask_token_id=1,
        special_token_ids=config.special_token_ids,
        probability=0.9,
        generator=torch.Generator().manual_seed(0),
    )
    assert set(masked.input_ids.unique().tolist()) == {1, 2, 10, 20, 30}
