"""Vectors of genes that come of a fixed table, computed once for many minibatches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sfm.nn.architectures._proteins import embed_distinct, shared_gene_vectors


class Projection(nn.Module):
    """A table and a layer, which count the tokens that they embed."""

    def __init__(self, n_tokens: int = 300) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(n_tokens, 12)
        self.project = nn.Linear(12, 4)
        self.embedded: list[int] = []

    def vectors(self, tokens: torch.Tensor) -> torch.Tensor:
        self.embedded += tokens.flatten().tolist()
        return self.project(self.table(tokens))


def minibatches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, high, (3, 7), generator=generator) for high in (20, 300, 5, 40)]


@torch.inference_mode()
def test_each_token_is_embedded_once_in_a_minibatch_and_once_in_the_context() -> None:
    model, ids = Projection(), minibatches()
    wanted = [model.project(model.table(tokens)) for tokens in ids]
    alone = [embed_distinct(model.vectors, tokens) for tokens in ids]
    assert sorted(model.embedded) == sorted(i for tokens in ids for i in set(tokens.flatten().tolist()))
    model.embedded.clear()
    with shared_gene_vectors():
        shared = [embed_distinct(model.vectors, tokens) for tokens in ids]
    assert sorted(model.embedded) == sorted({i for tokens in ids for i in tokens.flatten().tolist()})
    for found in (alone, shared):
        torch.testing.assert_close(found, wanted)


@torch.inference_mode()
def test_models_do_not_share_vectors_with_each_other() -> None:
    one, other = Projection(), Projection()
    other.project.weight.mul_(2)
    with shared_gene_vectors():
        for model in (one, other):
            tokens = minibatches()[0]
            found = embed_distinct(model.vectors, tokens)
            torch.testing.assert_close(found, model.project(model.table(tokens)))


@torch.inference_mode()
def test_an_inner_context_keeps_what_is_known_and_the_outermost_forgets_it() -> None:
    model, tokens = Projection(), minibatches()[0]
    with shared_gene_vectors():
        for _ in range(2):
            with shared_gene_vectors():
                embed_distinct(model.vectors, tokens)
        assert len(model.embedded) == len(tokens.unique())
    model.project.weight.mul_(2)
    with shared_gene_vectors():
        torch.testing.assert_close(embed_distinct(model.vectors, tokens), model.project(model.table(tokens)))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_outside_inference_mode_nothing_is_kept(mode: type) -> None:
    model, tokens = Projection(), minibatches()[0]
    with shared_gene_vectors(), mode():
        first = embed_distinct(model.vectors, tokens)
        with torch.no_grad():
            model.project.weight.mul_(2)
        assert not torch.allclose(embed_distinct(model.vectors, tokens), first)


@torch.inference_mode()
def test_no_tokens_at_all() -> None:
    model = Projection()
    with shared_gene_vectors():
        assert embed_distinct(model.vectors, torch.empty(0, 0, dtype=torch.int64)).shape == (0, 0, 4)
