from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import scvi

from sfm.datasets import toy_cells
from sfm.model import MaskedCellModel
from sfm.train._splitter import TokenDataSplitter, registered_tokens

if TYPE_CHECKING:
    from sfm.data._loader import TokenLoader


def make_splitter(tokenizer: str = "rank", seed: int = 0, **options: object) -> TokenDataSplitter:
    adata = toy_cells(60)
    MaskedCellModel.setup_anndata(adata, tokenizer=tokenizer, max_length=64)
    manager = MaskedCellModel(adata, hidden_size=16, num_hidden_layers=1, num_attention_heads=2).adata_manager
    scvi.settings.seed = seed
    splitter = TokenDataSplitter(manager, **{"batch_size": 8, **options})
    splitter.setup()
    return splitter


@pytest.mark.parametrize("tokenizer", ["rank", "bins"])
def test_each_training_cell_once_per_epoch(tokenizer: str) -> None:
    splitter = make_splitter(tokenizer)
    expected = splitter.cells[np.sort(splitter.train_idx)]
    seen = []
    for minibatch in splitter.train_dataloader():
        values = {"values"} if tokenizer == "bins" else set()
        assert set(minibatch) == {"input_ids", "attention_mask", "cell_index"} | values
        rows = splitter.cells[minibatch["cell_index"].numpy()]
        assert minibatch["attention_mask"].sum(dim=1).tolist() == rows.lengths.tolist()
        rows = zip(minibatch["input_ids"], minibatch["attention_mask"], strict=True)
        seen += [tuple(ids[mask == 1].tolist()) for ids, mask in rows]
    assert sorted(seen) == sorted(tuple(cell.input_ids.tolist()) for cell in expected)


def test_sizes_and_reproducible_split() -> None:
    first, same, other = make_splitter(seed=1), make_splitter(seed=1), make_splitter(seed=2)
    assert (len(first.train_idx), len(first.val_idx)) == (54, 6)
    assert np.array_equal(first.val_idx, same.val_idx)
    assert not np.array_equal(first.val_idx, other.val_idx)
    quarters = make_splitter(train_size=0.5, validation_size=0.25)
    assert (len(quarters.train_idx), len(quarters.val_idx), len(quarters.test_idx)) == (30, 15, 15)
    assert quarters.test_dataloader() is not None


def test_token_counts_are_of_the_training_cells() -> None:
    splitter = make_splitter()
    counts = splitter.token_counts(20_000)
    assert counts.sum() == splitter.cells[splitter.train_idx].input_ids.size
    assert counts[2] == len(splitter.train_idx)  # one <cls> per cell


def test_registered_tokens_are_in_obs_order() -> None:
    adata = toy_cells(60)
    MaskedCellModel.setup_anndata(adata, tokenizer="values", max_length=64)
    model = MaskedCellModel(adata, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    cells = registered_tokens(model.adata_manager)
    fresh = model.tokenizer(adata.X, model.vocabulary.token_ids[np.argsort(np.argsort(adata.var_names))])
    assert np.array_equal(cells.input_ids, fresh.input_ids)
    assert np.array_equal(cells.values, fresh.values)


def test_minibatches_hold_the_registered_categories() -> None:
    adata = toy_cells(60)
    adata.obs["donor"] = [f"donor {i % 4}" for i in range(60)]
    MaskedCellModel.setup_anndata(adata, max_length=64, labels_key="cell_type", batch_key="donor")
    manager = MaskedCellModel(adata, hidden_size=16, num_hidden_layers=1, num_attention_heads=2).adata_manager
    splitter = TokenDataSplitter(manager, batch_size=8)
    splitter.setup()
    for loader in (splitter.train_dataloader(), splitter.val_dataloader()):
        for minibatch in loader:
            cells = adata.obs.iloc[minibatch["cell_index"].numpy()]
            assert minibatch["label_index"].tolist() == cells["_scvi_labels"].tolist()
            assert minibatch["batch_index"].tolist() == cells["_scvi_batch"].tolist()


@pytest.mark.parametrize("seen", [0, 1, 3, 6])
def test_loader_goes_on_where_it_stopped(seen: int) -> None:
    def epochs(loader: TokenLoader) -> list[list[int]]:
        return [[int(minibatch["cell_index"][0]) for minibatch in loader] for _ in range(2)]

    splitter = make_splitter()
    whole = epochs(splitter.train_dataloader())
    loader = splitter.train_dataloader()
    cells = iter(loader)
    for _ in range(seen):
        next(cells)
    resumed = splitter.train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    rest = epochs(resumed)
    assert rest == [whole[0][seen:], whole[1]]


def test_split_travels_in_checkpoints() -> None:
    first, second = make_splitter(seed=1), make_splitter(seed=2)
    second.load_state_dict(first.state_dict())
    for name in ("train_idx", "val_idx", "test_idx"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert second.seed == 1
