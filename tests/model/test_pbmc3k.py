from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import scvi

from sfm.model import MaskedCellModel
from sfm.train._splitter import registered_tokens

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sfm.tokenizers import TokenizedCells


def unigram_loss(train: TokenizedCells, validation: TokenizedCells, special: list[int], size: int) -> float:
    """Mean cross-entropy, over the genes of the validation cells, of predicting by training frequency."""
    counts = np.bincount(train.input_ids, minlength=size) + 1.0
    counts[special] = 0
    genes = validation.input_ids[~np.isin(validation.input_ids, special)]
    return float(-np.log(counts[genes] / counts.sum()).mean())


@pytest.mark.slow
def test_three_epochs_beat_gene_frequencies(shared_data: Path, record_property: Callable[[str, object], None]) -> None:
    """On real cells, hidden genes are predicted clearly better than by their frequency in the training cells."""
    adata = ad.read_h5ad(shared_data / "pbmc3k.h5ad")[:1200].copy()
    sc.pp.filter_genes(adata, min_cells=100)
    MaskedCellModel.setup_anndata(adata, max_length=128)
    scvi.settings.seed = 0
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = MaskedCellModel(adata, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, **no_dropout)
    model.train(max_epochs=3, batch_size=8, plan_kwargs={"lr": 5e-3}, accelerator="cpu", enable_progress_bar=False)

    cells = registered_tokens(model.adata_manager)
    special = sorted(model.vocabulary.special_tokens.values())
    train, validation = cells[model.train_indices], cells[model.validation_indices]
    unigram = unigram_loss(train, validation, special, model.vocabulary.size)
    loss = float(model.history["validation_loss"].iloc[-1, 0])
    record_property("validation_loss", loss)
    record_property("unigram_loss", unigram)
    assert loss < unigram - 0.25, f"validation loss {loss:.3f} nats, by gene frequency {unigram:.3f} nats"
