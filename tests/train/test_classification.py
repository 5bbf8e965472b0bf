"""Splits by label, minibatches of samples, and losses and metrics of classifiers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from sfm.nn import CellConfig, backbone_config
from sfm.train import _module
from sfm.train._classification import ClassificationModule, ClassificationPlan
from sfm.train._samples import SampleClassificationModule, SampleSampler
from sfm.train._stratified import stratified_split

VOCAB = 50
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_length": 64}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def config_for(**settings: Any) -> CellConfig:
    options = {"special_token_ids": [0, 1, 2, 3], "classifier_dropout": 0.0, "id2label": {0: "a", 1: "b", 2: "c"}}
    return CellConfig(VOCAB, backbone_config("bert", **SIZES, **NO_DROPOUT), **{**options, **settings})


@pytest.fixture
def minibatch() -> dict[str, torch.Tensor]:
    """Cells of 30, 20, 9, 30 and 1 tokens, one of them without a label."""
    mask = (torch.arange(30) < torch.tensor([[30], [20], [9], [30], [1]])).long()
    ids = torch.randint(4, VOCAB, (5, 30), generator=torch.Generator().manual_seed(0))
    labels = {"label_index": torch.tensor([0, 2, 1, -1, 0]), "sample_index": torch.tensor([7, 3, 3, 7, 3])}
    return {"input_ids": ids * mask, "attention_mask": mask, "cell_index": torch.arange(5), **labels}


@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    n_unlabelled=st.integers(0, 10),
    held_out=st.floats(0, 1),
    validation=st.floats(0, 1),
    seed=st.integers(0, 3),
    shuffle=st.booleans(),
)
def test_a_split_keeps_each_label_in_training_and_in_proportion(
    sizes: list[int], n_unlabelled: int, held_out: float, validation: float, seed: int, shuffle: bool
) -> None:
    codes = np.repeat(np.arange(-1, len(sizes)), [n_unlabelled, *sizes])
    codes = np.random.default_rng(seed).permutation(codes)
    n = sum(sizes)
    n_held_out, n_validation = round(held_out * n), round(validation * held_out * n)
    parts = stratified_split(codes, n_held_out=n_held_out, n_validation=n_validation, seed=seed, shuffle=shuffle)
    train, val, test = parts
    assert sorted(np.concatenate(parts)) == np.flatnonzero(codes >= 0).tolist()
    possible = sum(max(size - 1, 0) for size in sizes)
    assert len(val) + len(test) == min(n_held_out, possible)
    assert len(val) == min(n_validation, len(val) + len(test))
    assert set(codes[train]) == {i for i, size in enumerate(sizes) if size}
    if n_held_out <= possible / 2:
        for label, size in enumerate(sizes):
            n_out = int((codes[val] == label).sum() + (codes[test] == label).sum())
            assert abs(n_out - n_held_out * size / max(n, 1)) <= 1 + (size == 1)
            in_validation = int((codes[val] == label).sum())
            assert abs(in_validation - n_out * len(val) / max(len(val) + len(test), 1)) < 2


def test_a_seed_decides_the_split_and_shuffling_can_be_left_out() -> None:
    codes = np.arange(40) % 4
    first, same, other = (stratified_split(codes, n_held_out=8, n_validation=8, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first[1], same[1])
    assert not np.array_equal(np.sort(first[1]), np.sort(other[1]))
    ordered = stratified_split(codes, n_held_out=8, n_validation=8, seed=0, shuffle=False)
    assert sorted(ordered[1]) == list(range(8))


def test_the_loss_is_cross_entropy_over_labelled_cells(minibatch: dict[str, torch.Tensor]) -> None:
    torch.manual_seed(0)
    module = ClassificationModule(config_for())
    example = module.make_example(minibatch)
    logits = module.network(**{k: v for k, v in example.items() if k != "labels"}).logits
    known = minibatch["label_index"] >= 0
    expected = F.cross_entropy(logits[known], minibatch["label_index"][known])
    for training in (True, False):
        torch.testing.assert_close(module.train(training)(minibatch)[2].loss, expected)


@pytest.mark.parametrize("settings", [{}, {"label_weights": [1.0, 5.0, 2.0]}, {"label_smoothing": 0.2}], ids=str)
def test_the_loss_and_its_gradient_do_not_depend_on_the_parts(
    minibatch: dict[str, torch.Tensor], settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    module = ClassificationModule(config_for(**settings))
    results = []
    for max_tokens in (1, 40, 10_000):
        monkeypatch.setitem(_module._MAX_TOKENS, "cpu", max_tokens)
        module.zero_grad()
        output = module.train()(minibatch)[2]
        output.loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
        _, predicted, evaluated = module.eval()(minibatch)
        results.append((output.loss.detach(), gradient, evaluated.loss.detach(), predicted["logits"].detach()))
        torch.testing.assert_close(evaluated.loss, output.loss)
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], atol=1e-5, rtol=1e-4)


def test_validation_returns_logits_of_all_cells_in_order(minibatch: dict[str, torch.Tensor]) -> None:
    torch.manual_seed(0)
    module = ClassificationModule(config_for()).eval()
    _, predicted, _ = module(minibatch)
    assert predicted["labels"].tolist() == [0, 2, 1, -100, 0]
    for i in range(5):
        alone = {key: tensor[i : i + 1] for key, tensor in minibatch.items()}
        torch.testing.assert_close(module(alone)[1]["logits"], predicted["logits"][i : i + 1], atol=1e-5, rtol=0)


def test_nothing_labelled_is_a_loss_of_zero(minibatch: dict[str, torch.Tensor]) -> None:
    module = ClassificationModule(config_for())
    minibatch["label_index"] = torch.full((5,), -1)
    for training in (True, False):
        assert module.train(training)(minibatch)[2].loss == 0


def test_samples_are_numbered_and_labelled(minibatch: dict[str, torch.Tensor]) -> None:
    module = SampleClassificationModule(config_for(sample_pooling="attention"))
    minibatch["label_index"] = torch.tensor([1, -1, 2, 1, 2])
    example = module.make_example(minibatch)
    assert example["sample_index"].tolist() == [1, 0, 0, 1, 0]
    assert example["labels"].tolist() == [2, 1]  # of the samples 3 and 7
    _, predicted, output = module.eval()(minibatch)
    assert predicted["logits"].shape == (2, 3)
    torch.testing.assert_close(output.loss, F.cross_entropy(predicted["logits"], torch.tensor([2, 1])))


@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
def test_losses_of_samples_do_not_depend_on_what_is_encoded_at_once(
    minibatch: dict[str, torch.Tensor], pooling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    module = SampleClassificationModule(config_for(sample_pooling=pooling))
    minibatch["label_index"] = torch.tensor([1, 2, 2, 1, 2])
    results = []
    for max_tokens in (1, 40, 10_000):
        monkeypatch.setitem(_module._MAX_TOKENS, "cpu", max_tokens)
        module.zero_grad()
        loss = module.train()(minibatch)[2].loss
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
        results.append((loss.detach(), gradient))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], atol=1e-5, rtol=1e-4)


def test_minibatches_hold_some_cells_of_each_of_a_few_samples() -> None:
    samples = np.repeat([5, 1, 9, 2, 7], [10, 3, 20, 8, 1])
    lengths = np.random.default_rng(0).integers(1, 50, len(samples))
    sampler = SampleSampler(samples, 2, lengths=lengths, cells_per_sample=6, shuffle=True)
    assert len(sampler) == 3
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        minibatches = list(sampler)
        seen = [np.unique(samples[rows], return_counts=True) for rows in minibatches]
        assert sorted(np.concatenate([names for names, _ in seen])) == [1, 2, 5, 7, 9]
        drawn = {name: n for names, counts in seen for name, n in zip(names, counts, strict=True)}
        assert drawn == {5: 6, 1: 3, 9: 6, 2: 6, 7: 1}
        assert all(len(set(rows)) == len(rows) for rows in minibatches)
        assert all(np.all(np.diff(lengths[rows]) >= 0) for rows in minibatches)
        epochs.append(sorted(np.concatenate(minibatches)))
    assert epochs[0] != epochs[1]
    whole = SampleSampler(samples, 2, lengths=lengths, cells_per_sample=None, shuffle=False)
    assert sorted(np.concatenate(list(whole))) == list(range(len(samples)))


def test_plan_has_metrics_for_the_labels_of_the_network() -> None:
    plan = ClassificationPlan(ClassificationModule(config_for()))
    assert dict(plan.label_metrics).keys() == {"accuracy", "macro_f1", "calibration_error"}
    probabilities, labels = torch.eye(3)[[0, 1, 1, 1]], torch.tensor([0, 1, 1, 2])
    for metric in plan.label_metrics.values():
        metric.update(probabilities, labels)
    values = {name: float(metric.compute()) for name, metric in plan.label_metrics.items()}
    # F1 is 1, 4/5 and 0; everything is said with certainty, and a quarter of it is wrong
    assert values == pytest.approx({"accuracy": 3 / 4, "macro_f1": 1.8 / 3, "calibration_error": 1 / 4})


def test_parts_that_are_frozen_as_a_whole_stay_in_evaluation_mode() -> None:
    module = ClassificationModule(config_for())
    network = module.network
    network.cell.embedder.requires_grad_(requires_grad=False)
    module.train()
    assert not any(part.training for part in network.cell.embedder.modules())
    assert all(part.training for part in network.head.modules())
    assert network.cell.backbone.training
    module.eval()
    assert not any(part.training for part in module.modules())
