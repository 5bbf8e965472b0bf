"""Cells that are told apart easily, and models for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy import sparse

import sfm
from sfm.checkpoints import PretrainedCells
from sfm.datasets import toy_cells, toy_model
from sfm.nn import CellConfig, CellForSequenceClassification

if TYPE_CHECKING:
    import anndata as ad


def deep_cells(n_cells: int) -> ad.AnnData:
    """Toy cells with four times the counts, whose types are easier to tell apart."""
    cells = toy_cells(5 * n_cells)
    by_type = [np.flatnonzero(cells.obs["cell_type"] == name) for name in cells.obs["cell_type"].cat.categories]
    groups = np.concatenate([rows[: len(rows) // 4 * 4].reshape(-1, 4) for rows in by_type])
    groups = np.random.default_rng(0).permutation(groups)[:n_cells]
    adata = cells[groups[:, 0]].copy()
    adata.X = sparse.csr_matrix(sum(cells.X[column] for column in groups.T))
    return adata


CELLS = deep_cells(220)
TYPES = ["type 0", "type 1", "type 2"]
METHODS = ["knn", "logreg", "lda", "prototype"]


@pytest.fixture(scope="package")
def model() -> PretrainedCells:
    """A tiny random model whose vectors tell the types apart."""
    return toy_model("values")


@pytest.fixture
def labelled() -> ad.AnnData:
    return CELLS[:150].copy()


@pytest.fixture
def query() -> ad.AnnData:
    adata = CELLS[150:].copy()
    adata.obs = adata.obs[[]]
    return adata


def truth(adata: ad.AnnData) -> np.ndarray:
    return CELLS.obs.loc[adata.obs_names, "cell_type"].to_numpy().astype(str)


def labels_of(adata: ad.AnnData, key: str = "sfm_label") -> np.ndarray:
    return adata.obs[key].to_numpy().astype(str)


def sharpened(mean: np.ndarray, adata: ad.AnnData) -> np.ndarray:
    """Mean probabilities after the temperature that was found for them, which never changes the order of the labels."""
    probabilities = mean ** (1 / adata.uns["sfm_label"]["params"]["temperature"])
    return probabilities / probabilities.sum(axis=1, keepdims=True)


def classifier(pretrained: PretrainedCells, names: list[str] = TYPES, **config: Any) -> PretrainedCells:
    """A random classifier network with the tokenizer of a model."""
    inherited = {k: v for k, v in pretrained.model.config.to_dict().items() if k not in ("architectures", "label2id")}
    settings = {**inherited, "id2label": dict(enumerate(names)), **config}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = CellForSequenceClassification(CellConfig.from_dict(settings)).eval()
    reference = PretrainedCells(network, pretrained.tokenizer, name="toy classifier")
    vectors = torch.from_numpy(sfm.tl.embed(CELLS, reference, copy=True).obsm["X_sfm"])
    layer = network.head.classifier
    with torch.no_grad():  # logits far enough apart, and around zero, for labels to differ between cells
        layer.weight.mul_(200)
        layer.bias.copy_(-(layer.weight @ vectors.mean(dim=0)))
    return reference
