from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy import stats

import sfm
from sfm.nn import (
    HIDDEN_VALUE,
    CellForMaskedValue,
    counts_from_values,
    mask_values,
    negative_binomial_log_likelihood,
    zero_inflated_log_likelihood,
)
from sfm.tokenizers import ValueTokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from sfm.nn import CellConfig

Cells = dict[str, torch.Tensor]
SPECIAL_IDS = [0, 1, 2, 3]


def hide(cells: Cells, seed: int = 0, probability: float = 0.5, **options: Any) -> Cells:
    generator = torch.Generator().manual_seed(seed)
    hidden = mask_values(
        **cells, special_token_ids=SPECIAL_IDS, probability=probability, generator=generator, **options
    )
    return cells | hidden._asdict()


@pytest.fixture
def make_model(make_config: Callable[..., CellConfig]) -> Callable[..., CellForMaskedValue]:
    def make(likelihood: str, *, value_embedding: str = "continuous", **settings: Any) -> CellForMaskedValue:
        torch.manual_seed(0)
        config = make_config("llama", value_embedding=value_embedding, value_likelihood=likelihood, **settings)
        model = CellForMaskedValue(config).eval()
        if likelihood != "mse":
            with torch.no_grad():
                model.head.log_dispersion.normal_()
        return model

    return make


@pytest.mark.parametrize("mean", [1e-6, 0.03, 2.0, 500.0])
@pytest.mark.parametrize("dispersion", [0.01, 1.0, 1000.0])
def test_negative_binomial_agrees_with_scipy(mean: float, dispersion: float) -> None:
    counts = torch.tensor([0.0, 1.0, 2.0, 7.0, 400.0], dtype=torch.float64)
    arguments = [torch.full_like(counts, value).log() for value in (mean, dispersion)]
    expected = stats.nbinom.logpmf(counts.numpy(), dispersion, dispersion / (dispersion + mean))
    ours = negative_binomial_log_likelihood(counts, *arguments)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-8, atol=1e-9)
    single = negative_binomial_log_likelihood(counts.float(), *(tensor.float() for tensor in arguments))
    np.testing.assert_allclose(single.numpy(), expected, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("share", [0.001, 0.4, 0.999])
def test_additional_zeros_agree_with_scipy(share: float) -> None:
    counts = torch.arange(6, dtype=torch.float64)
    mean, dispersion = 1.7, 0.6
    logits = torch.full_like(counts, share).logit()
    ours = zero_inflated_log_likelihood(
        counts, *(torch.full_like(counts, value).log() for value in (mean, dispersion)), logits
    )
    probability = (1 - share) * stats.nbinom.pmf(counts.numpy(), dispersion, dispersion / (dispersion + mean))
    probability[0] += share
    np.testing.assert_allclose(ours.exp().numpy(), probability, rtol=1e-8)


def test_probabilities_sum_to_one() -> None:
    counts = torch.arange(3000, dtype=torch.float64)
    log_mean, log_dispersion, zero = (torch.full_like(counts, value) for value in (2.0, -0.5, 0.3))
    for likelihood in (
        negative_binomial_log_likelihood(counts, log_mean, log_dispersion),
        zero_inflated_log_likelihood(counts, log_mean, log_dispersion, zero),
    ):
        torch.testing.assert_close(likelihood.exp().sum().item(), 1.0)


@pytest.mark.parametrize("extreme", [-60.0, 60.0])
def test_likelihoods_stay_finite(extreme: float) -> None:
    arguments = [torch.full((3,), value, requires_grad=True) for value in (extreme, 0.0, -extreme)]
    loss = zero_inflated_log_likelihood(torch.tensor([0.0, 1.0, 1e4]), *arguments).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(argument.grad).all() for argument in arguments)


def test_hiding_values(cells: Cells) -> None:
    hidden = hide(cells)
    chosen = ~hidden["labels"].isnan()
    assert (hidden["values"][chosen] == HIDDEN_VALUE).all()
    assert torch.equal(hidden["values"][~chosen], cells["values"][~chosen])
    assert torch.equal(hidden["labels"][chosen], cells["values"][chosen])
    assert not chosen[cells["attention_mask"] == 0].any()
    assert not chosen[:, 0].any(), "<cls> has no value to predict"
    assert hide(cells, probability=0.0)["labels"].isnan().logical_not().sum(dim=1).tolist() == [1, 1, 1, 0]


def test_counts_can_be_predicted_instead(cells: Cells) -> None:
    counts = torch.arange(48.0).view(4, 12)
    hidden = hide(cells, counts=counts)
    chosen = ~hidden["labels"].isnan()
    assert torch.equal(hidden["labels"][chosen], counts[chosen])


def test_counts_come_back_from_values() -> None:
    vocabulary = sfm.GeneVocabulary([f"GENE{i}" for i in range(30)])
    counts = np.random.default_rng(0).poisson(3.0, size=(5, 30)).astype(float)
    cells = ValueTokenizer(vocabulary, prepend_cls=False)(counts, vocabulary.token_ids)
    for row, (start, end) in zip(counts, itertools.pairwise(cells.indptr), strict=True):
        values = torch.from_numpy(cells.values[start:end])[None]
        genes = cells.input_ids[start:end] - vocabulary.token_ids[0]
        np.testing.assert_array_equal(counts_from_values(values, torch.tensor([row.sum()]))[0].numpy(), row[genes])


@pytest.mark.parametrize("likelihood", ["mse", "nb", "zinb"])
@torch.no_grad()
def test_the_true_value_is_not_seen(
    make_model: Callable[..., CellForMaskedValue], likelihood: str, cells: Cells
) -> None:
    model = make_model(likelihood)
    hidden = hide(cells)
    other = hidden["labels"] + 3
    size = torch.tensor([100.0, 200.0, 50.0, 1.0])
    first, second = (model(**hidden | {"labels": labels}, library_size=size) for labels in (hidden["labels"], other))
    assert torch.equal(first.logits, second.logits)
    assert first.loss != second.loss


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
@torch.no_grad()
def test_loss_is_the_likelihood_of_the_counts(
    make_model: Callable[..., CellForMaskedValue], likelihood: str, cells: Cells
) -> None:
    model = make_model(likelihood)
    hidden = hide(cells)
    output = model(**hidden)
    chosen = ~hidden["labels"].isnan()
    zero = 0.0 if output.zero_probability is None else output.zero_probability.double().numpy()
    mean, dispersion = output.logits.double().numpy() / (1 - zero), output.dispersion.double().numpy()
    counts = hidden["labels"][chosen].numpy()
    probability = (1 - zero) * stats.nbinom.pmf(counts, dispersion, dispersion / (dispersion + mean))
    probability = probability + zero * (counts == 0)
    np.testing.assert_allclose(output.loss.item(), -np.log(probability).mean(), rtol=1e-4)
    genes = hidden["input_ids"][chosen]
    torch.testing.assert_close(output.dispersion, model.head.log_dispersion[genes].exp())


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
@torch.no_grad()
def test_expected_counts_are_proportional_to_the_library(
    make_model: Callable[..., CellForMaskedValue], likelihood: str, cells: Cells
) -> None:
    model = make_model(likelihood)
    hidden = hide(cells)
    size = torch.tensor([100.0, 200.0, 50.0, 1.0])
    once, twice = model(**hidden, library_size=size), model(**hidden, library_size=2 * size)
    torch.testing.assert_close(twice.logits, 2 * once.logits)
    total = cells["values"].sum(dim=1)
    torch.testing.assert_close(model(**hidden).logits, model(**hidden, library_size=total).logits)


@pytest.mark.parametrize("likelihood", ["mse", "nb", "zinb"])
@torch.no_grad()
def test_sparse_and_full_losses_agree(
    make_model: Callable[..., CellForMaskedValue], likelihood: str, cells: Cells
) -> None:
    model = make_model(likelihood, value_embedding="bins")
    hidden = hide(cells)
    sparse = model(**hidden)
    model.config.sparse_prediction = False
    full = model(**hidden)
    assert sparse.logits.shape == ((~hidden["labels"].isnan()).sum(),)
    assert full.logits.shape == (4, 12)
    torch.testing.assert_close(full.loss, sparse.loss)


@pytest.mark.parametrize("likelihood", ["mse", "nb", "zinb"])
def test_expression_is_learned(make_model: Callable[..., CellForMaskedValue], likelihood: str) -> None:
    """A gene that follows another gene, given enough steps, is predicted from it."""
    model = make_model(likelihood)
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[5, 6, 7]]).repeat(64, 1)
    level = torch.randint(1, 5, (64, 1), generator=generator).float()
    values = torch.cat([level, 2 * level, 20 - 3 * level], dim=1)
    labels = torch.full_like(values, float("nan"))
    labels[:, 1] = values[:, 1]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "values": values.clone()}
    inputs["values"][:, 1] = HIDDEN_VALUE
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
    predicted = model(**inputs, labels=labels).logits
    assert (predicted - values[:, 1]).abs().mean() < 1.0, "knowing the mean alone leaves 2"


def test_values_are_needed(make_config: Callable[..., CellConfig]) -> None:
    with pytest.raises(ValueError, match="value_embedding=None. Tokenize with 'values' or 'bins'"):
        CellForMaskedValue(make_config())
