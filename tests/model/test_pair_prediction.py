"""Whether two cells belong together: by a pair head, and by the labels that a classifier gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scvi

from sfm.datasets import toy_cells
from sfm.model import CellClassifier, MaskedCellModel

if TYPE_CHECKING:
    from pathlib import Path

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TRAIN: dict[str, Any] = {"batch_size": 16, "accelerator": "cpu", "enable_progress_bar": False}
CELLS = toy_cells(500)
CELLS = CELLS[CELLS.obs["cell_type"] != "type 2"].copy()
TRAINED, NEW = CELLS[:270], CELLS[270:]
I, J = np.repeat(np.arange(12), 12), np.tile(np.arange(12), 12)


def with_pair_head(max_epochs: int) -> MaskedCellModel:
    adata = TRAINED.copy()
    MaskedCellModel.setup_anndata(adata, max_length=24, labels_key="cell_type")
    scvi.settings.seed = 0
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    options = {"objective": "pairs", "pair_key": "labels", "mask_probability": 0.05}
    model = MaskedCellModel(adata, **options, **sizes, **no_dropout)
    model.train(max_epochs=max_epochs, plan_kwargs={"lr": 1e-2}, **TRAIN)
    return model


@pytest.fixture(scope="module")
def by_head() -> MaskedCellModel:
    """Trained too briefly to be right, but not random."""
    return with_pair_head(max_epochs=2)


@pytest.fixture(scope="module")
def by_label() -> CellClassifier:
    adata = TRAINED.copy()
    CellClassifier.setup_anndata(adata, max_length=48, labels_key="cell_type")
    scvi.settings.seed = 0
    model = CellClassifier(adata, **SIZES)
    model.train(max_epochs=6, plan_kwargs={"lr": 1e-2}, **TRAIN)
    return model


def assert_right(model: CellClassifier | MaskedCellModel) -> None:
    """On cells that it was not trained on."""
    adata = NEW.copy()
    together = model.predict_pairs(adata, I, J)
    assert together.dtype == np.float32
    assert together.shape == I.shape
    types = adata.obs["cell_type"].to_numpy()
    same, apart = (types[I] == types[J]) & (I != J), types[I] != types[J]
    assert np.median(together[same]) > 0.8
    assert np.median(together[apart]) < 0.2
    assert not adata.obsm


def test_cells_that_get_one_label_belong_together(by_label: CellClassifier) -> None:
    assert_right(by_label)


@pytest.mark.slow
def test_the_pair_head_learns_which_cells_belong_together() -> None:
    assert_right(with_pair_head(max_epochs=25))


@pytest.mark.parametrize("fixture", ["by_head", "by_label"])
def test_order_minibatch_and_source_do_not_matter(fixture: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(fixture)
    together = model.predict_pairs(None, I, J)
    np.testing.assert_allclose(model.predict_pairs(None, J, I), together, atol=1e-5)
    np.testing.assert_allclose(model.predict_pairs(None, I[:7], J[:7], batch_size=2), together[:7], atol=1e-5)
    np.testing.assert_allclose(model.predict_pairs(TRAINED[:20].copy(), I, J), together, atol=1e-5)
    assert model.predict_pairs(None, [], []).shape == (0,)
    with pytest.raises(ValueError, match="i names 2 cells and j 1"):
        model.predict_pairs(None, [0, 1], [2])
    for rows, named in (([-1], "-1"), (["cell_1"], "'cell_1'")):
        with pytest.raises(ValueError, match=f"i holds {named}"):
            model.predict_pairs(None, rows, [2])


def test_label_pairs_follow_from_the_probabilities(by_label: CellClassifier) -> None:
    soft = by_label.predict(soft=True).to_numpy()
    np.testing.assert_allclose(by_label.predict_pairs(None, I, J), (soft[I] * soft[J]).sum(axis=1), atol=1e-5)


def test_pair_head_survives_saving(by_head: MaskedCellModel, tmp_path: Path) -> None:
    together = by_head.predict_pairs(None, I[:20], J[:20])
    by_head.save(str(tmp_path / "saved"))
    loaded = MaskedCellModel.load(str(tmp_path / "saved"), adata=TRAINED.copy(), accelerator="cpu")
    np.testing.assert_allclose(loaded.predict_pairs(None, I[:20], J[:20]), together, atol=1e-5)
    body = CellClassifier.from_pretrained(by_head, toy_cells(60), labels_key="cell_type")
    vectors = by_head.get_latent_representation(toy_cells(60))
    np.testing.assert_allclose(body.get_latent_representation(), vectors, atol=1e-5)


def test_models_without_a_pair_head_say_so() -> None:
    adata = toy_cells(30)
    MaskedCellModel.setup_anndata(adata, max_length=32)
    model = MaskedCellModel(adata, **SIZES)
    model.train(max_epochs=1, **TRAIN)
    with pytest.raises(ValueError, match="has no pair head. Make it with objective='pairs'"):
        model.predict_pairs(None, [0], [1])
