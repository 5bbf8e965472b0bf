"""Vectors of genes: where they go, and what they depend on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest
import torch

import sfm

if TYPE_CHECKING:
    from pathlib import Path

    from sfm.checkpoints import PretrainedCells

KEY = "X_sfm_genes"


@pytest.mark.filterwarnings("ignore:.*knows few of the genes")
def test_a_contextual_vector_is_the_mean_over_the_cells_that_have_the_gene(
    toy: ad.AnnData, toy_pretrained: PretrainedCells
) -> None:
    sfm.tl.embed_genes(toy, toy_pretrained)
    sfm.pp.tokenize(toy, toy_pretrained)
    values = toy.obsm.get("tokens_values")
    cells = sfm.TokenizedCells.from_obsm(toy.obsm["tokens"], values)
    token_ids = sfm.get.gene_fate(toy, toy_pretrained)["token_id"].to_numpy()
    gene = int(np.flatnonzero(token_ids == np.bincount(cells.input_ids[cells.input_ids > 3]).argmax())[0])
    found = []
    for cell in (cells[i] for i in range(len(cells))):
        if token_ids[gene] in cell.input_ids:
            given = {} if cell.values is None else {"values": cell.values[None]}
            with torch.inference_mode():
                model = toy_pretrained.model
                hidden = getattr(model, "cell", model)(cell.input_ids[None], cell.attention_mask[None], **given)
            found.append(hidden.last_hidden_state[0, cell.input_ids == token_ids[gene]].numpy())
    assert len(found) > 5
    np.testing.assert_allclose(toy.varm[KEY][gene], np.concatenate(found).mean(axis=0), rtol=1e-4, atol=1e-5)


def test_rows_follow_var_and_unknown_genes_are_missing(toy: ad.AnnData) -> None:
    sfm.tl.embed_genes(toy)
    rng = np.random.default_rng(0)
    other = toy[rng.permutation(toy.n_obs), rng.permutation(toy.n_vars)].copy()
    other.var_names = ["not-a-gene", *other.var_names[1:]]
    del other.varm[KEY]
    sfm.tl.embed_genes(other, batch_size=7)
    assert np.isnan(other.varm[KEY][0]).all()
    assert other.varm[KEY].dtype == np.float32
    # Without one gene all others stand in another context; static vectors do not.
    sfm.tl.embed_genes(toy, kind="static", key_added="static")
    sfm.tl.embed_genes(other, kind="static", key_added="static")
    order = toy.var_names.get_indexer(other.var_names[1:])
    np.testing.assert_array_equal(other.varm["static"][1:], toy.varm["static"][order])


def test_order_of_cells_and_minibatches_change_nothing(toy: ad.AnnData) -> None:
    sfm.tl.embed_genes(toy)
    other = toy[::-1].copy()
    sfm.tl.embed_genes(other, batch_size=5)
    np.testing.assert_allclose(other.varm[KEY], toy.varm[KEY], atol=1e-5)


def test_static_vectors_are_those_of_the_model(toy: ad.AnnData) -> None:
    sfm.tl.embed_genes(toy, kind="static")
    table = sfm.get.gene_embeddings()
    genes = sfm.get.gene_fate(toy)["gene"]
    np.testing.assert_array_equal(toy.varm[KEY], table.loc[genes].to_numpy())


def test_results_are_written_to_files_with_where_they_are_from(toy: ad.AnnData, tmp_path: Path) -> None:
    sfm.tl.embed_genes(toy, key_added="genes")
    toy.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    np.testing.assert_array_equal(again.varm["genes"], toy.varm["genes"])
    params = again.uns["genes"]["params"]
    assert (params["model"], params["kind"], params["slot"]) == ("sfm-mini", "contextual", "adata.X")


def test_input_stays_as_it_is(toy: ad.AnnData) -> None:
    before = toy.copy()
    result = sfm.tl.embed_genes(toy, copy=True)
    assert KEY in result.varm
    assert KEY not in toy.varm
    assert set(toy.uns) == set(before.uns)
    with pytest.raises(ValueError, match="Unknown kind='both'"):
        sfm.tl.embed_genes(toy, kind="both")


def test_a_model_of_unknown_make_has_no_vectors_of_genes(toy: ad.AnnData) -> None:
    class Other(torch.nn.Module):
        def encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: object) -> torch.Tensor:
            return attention_mask.float()

    tokenizer = sfm.load("sfm-mini").tokenizer
    model = sfm.PretrainedCells(Other(), tokenizer, name="other")
    with pytest.raises(TypeError, match="how it embeds cells, but not genes"):
        sfm.tl.embed_genes(toy, model)
