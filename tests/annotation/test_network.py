"""Classifier networks as references."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import sfm
from sfm.annotation._network import NetworkReference

SCGPT = Path(__file__).parents[1] / "goldens" / "scgpt"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reference", [False, True])
def test_provenance_says_that_the_reference_is_a_classifier(reference: bool) -> None:
    adata = ad.read_h5ad(SCGPT / "input.h5ad")
    adata.X = adata.X.astype(np.float32).rint()
    adata.obs["label"] = np.resize(["first", "second"], adata.n_obs)
    pretrained = sfm.load(SCGPT / "model", reference=reference)
    model = sfm.model.CellClassifier.from_pretrained(pretrained, adata, labels_key="label", gene_symbols="feature_name")
    assert pretrained.params()["reference"] is reference
    found = NetworkReference(model.as_pretrained()).params()
    assert found["reference"] == "classifier"
    assert found["temperature"] == 1
    assert found.keys() >= pretrained.params().keys()
