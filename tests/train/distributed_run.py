"""Train a tiny model in each process that this is started in, and write down what each one saw."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import scvi
from lightning.pytorch.callbacks import Callback
from transformers import TrainerCallback

from sfm.datasets import toy_cells
from sfm.model import MaskedCellModel


class SeenCells(Callback):
    """Rows of the cells in each minibatch, by epoch."""

    def __init__(self) -> None:
        self.cells: dict[int, list[int]] = {}

    def on_train_batch_start(self, trainer: object, module: object, minibatch: dict[str, object], _: int) -> None:
        self.cells.setdefault(module.current_epoch, []).extend(minibatch["cell_index"].tolist())


class Logs(TrainerCallback):
    """What a callback of transformers is told."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_log(self, args: object, state: object, control: object, logs: dict[str, float], **_: object) -> None:
        self.norms += [logs["grad_norm"]] if "grad_norm" in logs else []


def main(folder: str, strategy: str, devices: int) -> None:
    scvi.settings.seed = 0
    adata = toy_cells(200)
    MaskedCellModel.setup_anndata(adata, max_length=48)
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = MaskedCellModel(adata, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, **no_dropout)
    seen, logs = SeenCells(), Logs()
    model.train(
        max_epochs=3,
        batch_size=10,
        accumulate_grad_batches=2 // devices,
        devices=devices,
        strategy=strategy,
        callbacks=[seen, logs],
        training_arguments={"logging_steps": 1},
        checkpoint_dir=Path(folder) / strategy,
        plan_kwargs={"lr": 1e-2},
        accelerator="cpu",
        enable_progress_bar=False,
    )
    history = {name: frame.iloc[:, 0].astype(float).tolist() for name, frame in (model.history or {}).items()}
    result = {
        "cells": seen.cells,
        "norms": logs.norms,
        "history": history,
        "train": model.train_indices.tolist(),
        "vectors": model.get_latent_representation().tolist(),
    }
    model.save(f"{folder}/{strategy}-model-{os.environ.get('RANK', 0)}")
    Path(f"{folder}/{strategy}-{os.environ.get('RANK', 0)}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
