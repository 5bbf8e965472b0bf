from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest
import scvi
import torch

from sfm.model import MaskedCellModel
from sfm.train._splitter import registered_tokens

if TYPE_CHECKING:
    from pathlib import Path

    from sfm.tokenizers import TokenizedCells


def unigram_loss(train: TokenizedCells, validation: TokenizedCells, special: list[int], size: int) -> float:
    """Mean cross-entropy, over the genes of the validation cells, of predicting by training frequency."""
    counts = np.bincount(train.input_ids, minlength=size) + 1.0
    counts[special] = 0
    genes = validation.input_ids[~np.isin(validation.input_ids, special)]
    return float(-np.log(counts[genes] / counts.sum()).mean())


@pytest.mark.slow
def test_three_epochs_beat_gene_frequencies(shared_data: Path, record_property: pytest.FixtureRequest) -> None:
    """On real cells the model must predict hidden genes clearly better than their frequency does."""
    adata = ad.read_h5ad(shared_data / "pbmc3k.h5ad")
    MaskedCellModel.setup_anndata(adata, max_length=512)
    scvi.settings.seed = 0
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = MaskedCellModel(adata, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **sizes)
    torch.set_num_threads(2)
    model.train(max_epochs=3, plan_kwargs={"lr": 2e-3}, accelerator="cpu", enable_progress_bar=False)

    cells = registered_tokens(model.adata_manager)
    special = sorted(model.vocabulary.special_tokens.values())
    unigram = unigram_loss(cells[model.train_indices], cells[model.validation_indices], special, model.vocabulary.size)
    loss = float(model.history["validation_loss"].iloc[-1, 0])
    record_property("validation_loss", loss)
    record_property("unigram_loss", unigram)
    assert loss < 0.9 * unigram, f"validation loss {loss:.3f} nats, gene frequencies {unigram:.3f} nats"
