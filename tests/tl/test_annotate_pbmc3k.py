"""Annotation of real cells with the bundled model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

import sfm
from sfm.annotation._classifier import CLASSIFIERS
from sfm.annotation._resolve import DEFAULT_METHODS

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow
LABELS = "cell_type_coarse"


@pytest.fixture(scope="module")
def pbmc3k(shared_data: Path) -> ad.AnnData:
    adata = ad.read_h5ad(shared_data / "pbmc3k.h5ad")
    adata = adata[adata.obs[LABELS].astype(str) != "unassigned"]
    adata = adata[np.random.default_rng(0).permutation(adata.n_obs)[:900]].copy()
    sfm.tl.embed(adata)
    return adata


@pytest.mark.parametrize("method", [*CLASSIFIERS.names(), DEFAULT_METHODS])
def test_types_are_found_and_confidence_means_what_it_says(pbmc3k: ad.AnnData, method: Any) -> None:
    reference, query = pbmc3k[:600].copy(), pbmc3k[600:].copy()
    sfm.tl.annotate(query, reference, labels_key=LABELS, method=method)
    truth, labels = (query.obs[key].astype(str) for key in (LABELS, "sfm_label"))
    assert (truth == labels).mean() > 0.9
    assert f1_score(truth, labels, average="macro") > 0.8
    error = sfm.metrics.expected_calibration_error(query.obs["sfm_label_confidence"], truth == labels)
    assert error < 0.05
    assert query.uns["sfm_label"]["params"]["expected_calibration_error"] < 0.05


def test_cells_of_a_type_that_was_left_out_are_mostly_novel(pbmc3k: ad.AnnData) -> None:
    scores = {}
    for left_out in pbmc3k.obs[LABELS].astype(str).value_counts().loc[lambda n: n >= 20].index:
        known = pbmc3k.obs[LABELS].astype(str) != left_out
        reference = pbmc3k[known & (np.arange(pbmc3k.n_obs) < 600)].copy()
        query = pbmc3k[~known | (np.arange(pbmc3k.n_obs) >= 600)].copy()
        sfm.tl.annotate(query, reference, labels_key=LABELS)
        scores[left_out] = roc_auc_score(query.obs[LABELS].astype(str) == left_out, query.obs["sfm_label_novelty"])
    assert np.mean(list(scores.values())) > 0.8, scores
    assert min(scores.values()) > 0.5, scores
