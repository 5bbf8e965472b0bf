"""Train tiny models in each process that this is started in, one after the other, and write down what each saw."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import scvi
from lightning.pytorch.callbacks import Callback
from transformers import TrainerCallback

from sfm.datasets import toy_cells
from sfm.model import MaskedCellModel
from sfm.train import CellDataModule
from sfm.train.callbacks import as_lightning_callbacks

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TRAIN: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}
RANK = os.environ.get("RANK", "0")


class SeenCells(Callback):
    """Rows of the cells in each minibatch, by part and epoch."""

    def __init__(self) -> None:
        self.cells: dict[str, list[int]] = {}

    def on_train_batch_start(self, trainer: object, module: Any, minibatch: dict[str, Any], _: int) -> None:
        self.cells.setdefault(f"train {module.current_epoch}", []).extend(minibatch["cell_index"].tolist())

    def on_validation_batch_start(self, trainer: Any, module: Any, minibatch: dict[str, Any], _: int) -> None:
        if not trainer.sanity_checking:
            self.cells.setdefault(f"validation {module.current_epoch}", []).extend(minibatch["cell_index"].tolist())


class Recorder(TrainerCallback):
    """What a callback of transformers is told; the second process alone asks to save, and to stop if it may."""

    def __init__(self, *, stops: bool) -> None:
        self.stops = stops
        self.norms: list[float] = []
        self.loss = None

    def on_step_end(self, args: object, state: Any, control: Any, **_: object) -> None:
        self.state = state
        if self.stops:
            control.should_training_stop = not state.is_world_process_zero and state.global_step == 2
            control.should_save = not state.is_world_process_zero and state.global_step == 1

    def on_log(self, args: object, state: object, control: object, logs: dict[str, float], **_: object) -> None:
        self.norms += [logs["grad_norm"]] if "grad_norm" in logs else []
        self.loss = logs.get("loss") or self.loss


def history(model: MaskedCellModel) -> dict[str, list[float]]:
    return {name: frame.iloc[:, 0].astype(float).tolist() for name, frame in (model.history or {}).items()}


def on_memory(folder: Path, strategy: str, devices: int) -> dict[str, Any]:
    """Train on cells in memory; one process accumulates two minibatches per step."""
    scvi.settings.seed = 0
    adata = toy_cells(200)
    MaskedCellModel.setup_anndata(adata, max_length=48)
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = MaskedCellModel(adata, **SIZES, **no_dropout)
    seen, recorder = SeenCells(), Recorder(stops=False)
    model.train(
        max_epochs=3,
        batch_size=10,
        accumulate_grad_batches=2 // devices,
        devices=devices,
        strategy=strategy,
        callbacks=[seen, recorder],
        training_arguments={"logging_steps": 1},
        checkpoint_dir=folder / strategy,
        plan_kwargs={"lr": 1e-2},
        **TRAIN,
    )
    vectors = model.get_latent_representation().tolist()
    model.save(f"{folder}/{strategy}-model-{RANK}")
    return {
        "cells": seen.cells,
        "norms": recorder.norms,
        "history": history(model),
        "train": model.train_indices.tolist(),
        "vectors": vectors,
    }


def on_files(folder: Path, strategy: str, source: str) -> dict[str, Any]:
    """Train on the files in a folder, or on a token cache of them."""
    scvi.settings.seed = 0
    data = CellDataModule(
        sorted(folder.glob("*.h5ad")),
        max_length=32,
        cache_dir=folder / "cache" if source == "cached" else None,
        batch_size=7,
        block_size=10,
        mixed_blocks=3,
    )
    model = MaskedCellModel(registry=data.registry, **SIZES)
    seen = SeenCells()
    options = {"devices": 2, "strategy": strategy, "callbacks": [seen], "plan_kwargs": {"lr": 1e-2}}
    model.train(max_epochs=2, datamodule=data, **options, **TRAIN)
    vectors = model.get_latent_representation(toy_cells(10)).tolist()
    data.close()
    return {"cells": seen.cells, "n_train": data.n_train, "history": history(model), "vectors": vectors}


def with_requests(folder: Path) -> dict[str, Any]:
    """Train with a callback that stops training, and saves, in one of the processes."""
    scvi.settings.seed = 0
    adata = toy_cells(60)
    MaskedCellModel.setup_anndata(adata, max_length=32)
    model = MaskedCellModel(adata, **{**SIZES, "num_hidden_layers": 1})
    recorder = Recorder(stops=True)
    callbacks = as_lightning_callbacks([recorder], report_to="tensorboard", output_dir=folder)
    model.train(max_epochs=3, batch_size=9, callbacks=callbacks, devices=2, strategy="ddp", **TRAIN)
    state = recorder.state
    agreed = [state.global_step, state.num_input_tokens_seen, recorder.loss]
    return {"agreed": agreed, "rank": model.trainer.global_rank, "is first": state.is_world_process_zero}


def main(parent: str) -> None:
    folder = Path(parent)
    results = {strategy: on_memory(folder, strategy, 2) for strategy in ("ddp", "fsdp")}
    for strategy, source in (("ddp", "files"), ("ddp", "cached"), ("fsdp", "files")):
        results[f"{strategy} {source}"] = on_files(folder, strategy, source)
    results["requests"] = with_requests(folder / "requests")
    (folder / f"{RANK}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1])
