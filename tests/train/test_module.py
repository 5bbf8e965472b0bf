from __future__ import annotations

import pytest
import torch

from sfm.nn import CellConfig, backbone_config
from sfm.train._module import MaskedCellModule
from sfm.train._plan import _warmup_cosine

VOCAB = 50


@pytest.fixture
def module() -> MaskedCellModule:
    torch.manual_seed(0)
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_length": 64, **no_dropout}
    config = CellConfig(VOCAB, backbone_config("bert", **sizes), special_token_ids=[0, 1, 2, 3])
    return MaskedCellModule(config, mask_probability=0.3)


@pytest.fixture
def minibatch() -> dict[str, torch.Tensor]:
    mask = (torch.arange(30) < torch.tensor([[30], [20], [9], [0]])).long()
    ids = torch.randint(4, VOCAB, (4, 30), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids * mask, "attention_mask": mask}


def test_validation_hides_the_same_genes_each_time(
    module: MaskedCellModule, minibatch: dict[str, torch.Tensor]
) -> None:
    labels = [module.eval().inference(**minibatch)["labels"] for _ in range(2)]
    assert torch.equal(*labels)
    labels = [module.train().inference(**minibatch)["labels"] for _ in range(2)]
    assert not torch.equal(*labels)


def test_loss_per_cell_is_the_mean_over_its_hidden_genes(
    module: MaskedCellModule, minibatch: dict[str, torch.Tensor]
) -> None:
    output, _, loss = module.eval()(minibatch)
    per_cell, hidden = loss.reconstruction_loss["reconstruction_loss"], (output["labels"] >= 0).sum(dim=1)
    assert per_cell.shape == (4,)
    assert per_cell[3] == 0  # nothing to predict
    torch.testing.assert_close((per_cell * hidden).sum() / hidden.sum(), loss.loss)


def test_starting_from_frequencies_gives_their_loss(
    module: MaskedCellModule, minibatch: dict[str, torch.Tensor]
) -> None:
    """With a gene embedding of zeros, only the bias is left, which must be the log frequency."""
    counts = torch.arange(VOCAB)
    module.start_from_frequencies(counts)
    module.network.cell.embedder.genes.weight.data.zero_()
    output, _, loss = module.eval()(minibatch)
    genes = output["labels"][output["labels"] >= 0]
    expected = -((counts[genes] + 1) / (counts + 1).sum()).log().mean()
    torch.testing.assert_close(loss.loss, expected)


def test_warm_up_and_cosine() -> None:
    factor = _warmup_cosine(100, 0.1, 0.05)
    values = torch.tensor([factor(step) for step in range(101)])
    assert values[0] == pytest.approx(0.1)
    assert values.argmax() == 9
    assert (values[10:].diff() <= 0).all()
    assert values[100] == pytest.approx(0.05)
