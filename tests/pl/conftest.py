from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

mpl.use("Agg")


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    """Leave no figure open, and none of scanpy's settings changed."""
    import matplotlib.pyplot as plt
    import scanpy as sc

    names = ("autoshow", "figdir", "logfile", "verbosity")
    before = {name: getattr(sc.settings, name) for name in names}
    yield
    plt.close("all")
    for name, value in before.items():
        setattr(sc.settings, name, value)


def _annotated_cells(names: list[str], n_cells: int = 200, *, seed: int = 0) -> ad.AnnData:
    """Cells with true labels, and predictions with their probabilities; those below 0.5 are rejected."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(len(names), size=n_cells)
    logits = rng.normal(size=(n_cells, len(names)))
    logits[np.arange(n_cells), truth] += rng.gamma(2, 1, size=n_cells)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array(names, dtype=object)
    adata = ad.AnnData(np.zeros((n_cells, 1), dtype=np.float32))
    adata.obs["truth"] = pd.Categorical(labels[truth], categories=names)
    best, confidence = labels[probabilities.argmax(axis=1)], probabilities.max(axis=1)
    adata.obs["sfm_label"] = pd.Categorical(np.where(confidence < 0.5, "unknown", best))
    adata.obs["sfm_label_confidence"] = confidence.astype(np.float32)
    adata.obsm["sfm_label_probabilities"] = pd.DataFrame(
        probabilities.astype(np.float32), index=adata.obs_names, columns=names
    )
    adata.uns["sfm_label"] = {"params": {"min_confidence": 0.5, "labels": labels}}
    return adata


@pytest.fixture
def annotated_cells() -> Callable[..., ad.AnnData]:
    """Make cells with the labels of one's choice."""
    return _annotated_cells


@pytest.fixture
def annotated() -> ad.AnnData:
    """Three labels, of which some cells were rejected."""
    return _annotated_cells(["T cell", "B cell", "monocyte"])
