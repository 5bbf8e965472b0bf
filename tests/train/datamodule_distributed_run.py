"""Train a tiny model on files in each process that this is started in, and write down what each one saw."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import scvi
from lightning.pytorch.callbacks import Callback

from sfm.datasets import toy_cells
from sfm.model import MaskedCellModel
from sfm.train import CellDataModule


class SeenCells(Callback):
    """Rows of the cells in each minibatch, by epoch and part."""

    def __init__(self) -> None:
        self.cells: dict[str, list[int]] = {}

    def on_train_batch_start(self, trainer: object, module: object, minibatch: dict[str, object], _: int) -> None:
        self.cells.setdefault(f"train {module.current_epoch}", []).extend(minibatch["cell_index"].tolist())

    def on_validation_batch_start(self, trainer: object, module: object, minibatch: dict[str, object], _: int) -> None:
        if not trainer.sanity_checking:
            self.cells.setdefault(f"validation {module.current_epoch}", []).extend(minibatch["cell_index"].tolist())


def main(folder: str, strategy: str, devices: int, cached: bool) -> None:
    scvi.settings.seed = 0
    data = CellDataModule(
        sorted(Path(folder).glob("*.h5ad")),
        max_length=32,
        cache_dir=Path(folder) / f"cache-{strategy}-{devices}" if cached else None,
        batch_size=7,
        block_size=10,
        mixed_blocks=3,
    )
    model = MaskedCellModel(registry=data.registry, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    seen = SeenCells()
    model.train(
        max_epochs=2,
        datamodule=data,
        devices=devices,
        strategy=strategy,
        callbacks=[seen],
        accelerator="cpu",
        plan_kwargs={"lr": 1e-2},
        enable_progress_bar=False,
    )
    rank = os.environ.get("RANK", "0")
    history = {name: frame.iloc[:, 0].astype(float).tolist() for name, frame in (model.history or {}).items()}
    vectors = model.get_latent_representation(toy_cells(10)).tolist()
    result = {"cells": seen.cells, "n_train": data.n_train, "n_obs": data.n_obs, "history": history, "vectors": vectors}
    Path(f"{folder}/{strategy}-{int(cached)}-{rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "cached")
