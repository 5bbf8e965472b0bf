"""Training on files and on token caches, from the first epoch to the saved model."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback

import sfm
from sfm.data._cache import TokenCache
from sfm.data._loader import TokenDataset, TokenLoader
from sfm.datasets import toy_cells, toy_model
from sfm.model import CausalCellModel, CellClassifier, GeneClassifier, MaskedCellModel
from sfm.train import CellDataModule, NonFiniteLossError
from sfm.train._checkpoint import checkpoints_in

if TYPE_CHECKING:
    from collections.abc import Iterator

N = (50, 37)
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
BLOCKS = {"block_size": 8, "mixed_blocks": 3, "batch_size": 6}
TRAIN = {"accelerator": "cpu", "enable_progress_bar": False}
CURVES = ["train_loss", "validation_loss"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for i, n in enumerate(N):
        adata = toy_cells(n, seed=i)
        adata.obs["donor"] = [f"donor {i}{k % 2}" for k in range(n)]
        adata.obs["partly"] = adata.obs["cell_type"].astype(object).where(np.arange(n) % 3 > 0)
        adata.write_h5ad(folder / f"{i}.h5ad")
    return folder


@pytest.fixture
def opened(folder: Path) -> Iterator[Any]:
    """Makes datamodules, and closes their files in the end."""
    made: list[CellDataModule] = []

    def make(**options: Any) -> CellDataModule:
        made.append(datamodule(folder, **options))
        return made[-1]

    yield make
    for entry in made:
        entry.close()


def datamodule(folder: Path, **options: Any) -> CellDataModule:
    paths = [folder / f"{i}.h5ad" for i in range(len(N))]
    return CellDataModule(paths, **{"max_length": 32, "seed": 0, **BLOCKS, **options})


class Interruption(RuntimeError):
    pass


class Seen(Callback):
    """Rows of the cells of each minibatch, by epoch; raises after some steps."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.minibatches: dict[int, list[list[int]]] = {}
        self.stop_at = stop_at

    def on_train_batch_start(self, trainer: Any, module: Any, minibatch: dict[str, torch.Tensor], _: int) -> None:
        self.minibatches.setdefault(module.current_epoch, []).append(minibatch["cell_index"].tolist())

    def on_train_batch_end(self, trainer: Any, *_: object) -> None:
        if trainer.global_step == self.stop_at:
            raise Interruption


def run(data: CellDataModule, cls: Any = MaskedCellModel, **options: Any) -> Any:
    scvi.settings.seed = 0
    model = cls(registry=data.registry, **SIZES)
    model.train(**{"max_epochs": 2, "datamodule": data, **TRAIN, **options})
    return model


def curve(model: Any, name: str) -> np.ndarray:
    return model.history[name].to_numpy(dtype=float).ravel()


def assert_same(model: Any, expected: Any) -> None:
    for name in CURVES:
        np.testing.assert_allclose(curve(model, name), curve(expected, name), rtol=1e-5)
    for weight, other in zip(model.module.parameters(), expected.module.parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def whole(folder: Path) -> tuple[Any, Seen]:
    seen, data = Seen(), datamodule(folder)
    model = run(data, callbacks=[seen])
    data.close()
    return model, seen


def test_each_training_cell_once_per_epoch(whole: tuple[Any, Seen], opened: Any) -> None:
    split = opened().split
    train = sorted(row for block in range(len(split)) for row in split.rows(block, "train"))
    assert len(train) == sum(N) - round(sum(N) * 0.1)
    for epoch in (0, 1):
        rows = [row for minibatch in whole[1].minibatches[epoch] for row in minibatch]
        assert sorted(rows) == train
    assert whole[1].minibatches[0] != whole[1].minibatches[1]


@pytest.mark.parametrize("source", ["cache", "cache that is there", "worker"])
def test_tokens_may_be_made_before_or_meanwhile(
    source: str, whole: tuple[Any, Seen], opened: Any, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"num_workers": 1} if source == "worker" else {"cache_dir": tmp_path / "cache"}
    if source == "cache that is there":
        opened(**options).prepare_data()
        written = (tmp_path / "cache" / "cache.json").stat().st_mtime_ns
    seen = Seen()
    data = opened(**options)
    assert_same(run(data, callbacks=[seen]), whole[0])
    assert seen.minibatches == whole[1].minibatches
    assert isinstance(data.source, TokenCache) == (source != "worker")
    if source == "cache that is there":
        assert (tmp_path / "cache" / "cache.json").stat().st_mtime_ns == written


def test_a_cache_is_enough(whole: tuple[Any, Seen], opened: Any, tmp_path: Path) -> None:
    opened(cache_dir=tmp_path / "cache").prepare_data()
    seen = Seen()
    model = run(CellDataModule(tmp_path / "cache", seed=0, **BLOCKS), callbacks=[seen])
    assert_same(model, whole[0])
    assert seen.minibatches == whole[1].minibatches


def test_loss_is_that_of_training_in_memory(whole: tuple[Any, Seen], opened: Any) -> None:
    """The same minibatches from an AnnData of all cells give the same model."""
    data = opened()
    order = whole[1].minibatches
    every = data.source[np.arange(sum(N))]

    class InMemory(CellDataModule):
        def _loader(self, part: Any) -> Any:
            if part == "validation":
                return super()._loader(part)
            columns = {"cell_index": np.arange(len(every))}
            dataset = TokenDataset(every, pad_id=0, columns=columns)

            class Order(torch.utils.data.DistributedSampler):
                def __init__(self) -> None:
                    super().__init__(range(len(order[0])), 1, 0)

                def __iter__(self) -> Any:
                    return iter(order[self.epoch])

            return TokenLoader(dataset, batch_size=None, sampler=Order())

    in_memory = InMemory(data.files.paths, max_length=32, seed=0, **BLOCKS)
    assert_same(run(in_memory), whole[0])
    in_memory.close()


@pytest.mark.parametrize("step", [5, 13, 14, 20])
def test_interrupted_run_goes_on(step: int, whole: tuple[Any, Seen], opened: Any, tmp_path: Path) -> None:
    options = {"checkpoint_dir": tmp_path, "checkpoint_every": 1}
    before, after = Seen(stop_at=step), Seen()
    with pytest.raises(Interruption):
        run(opened(), callbacks=[before], **options)
    assert_same(run(opened(), callbacks=[after], resume=True, **options), whole[0])
    # The last step before the interruption came after the last checkpoint, so it is made again.
    first = [minibatch for epoch in (0, 1) for minibatch in before.minibatches.get(epoch, [])][:-1]
    rest = [minibatch for epoch in (0, 1) for minibatch in after.minibatches.get(epoch, [])]
    assert first + rest == whole[1].minibatches[0] + whole[1].minibatches[1]


@pytest.mark.parametrize(
    "change", [{"block_size": 9}, {"batch_size": 5}, {"validation_size": 0.2}, {"split_by": "blocks"}]
)
def test_resume_refuses_another_order(change: dict[str, Any], opened: Any, tmp_path: Path) -> None:
    run(opened(), max_epochs=1, checkpoint_dir=tmp_path)
    (name, value), *_ = change.items()
    with pytest.raises(ValueError, match=f"of a run with {name}={BLOCKS.get(name, '.*')}"):
        run(opened(**change), checkpoint_dir=tmp_path, resume=True)


_SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_datamodule import datamodule, run
run(datamodule(Path({folder!r})), checkpoint_dir={checkpoints!r}, checkpoint_every=2, resume=True)
"""


@pytest.mark.slow
def test_killed_process_goes_on(whole: tuple[Any, Seen], folder: Path, tmp_path: Path, opened: Any) -> None:
    script = _SCRIPT.format(tests=str(Path(__file__).parent), folder=str(folder), checkpoints=str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ
    )
    deadline = time.monotonic() + 240
    while not (tmp_path / "checkpoint-6" / "training.ckpt").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert checkpoints_in(tmp_path)
    assert_same(run(opened(), checkpoint_dir=tmp_path, checkpoint_every=2, resume=True), whole[0])


@pytest.mark.parametrize("cls", [MaskedCellModel, CausalCellModel, CellClassifier])
def test_models_have_the_whole_life_cycle(cls: Any, opened: Any, tmp_path: Path) -> None:
    data = opened(batch_key="donor", labels_key="cell_type", batch_size=12)
    model = run(data, cls, max_epochs=4, plan_kwargs={"lr": 1e-2})
    assert curve(model, "train_loss")[-1] < curve(model, "train_loss")[0]
    adata = toy_cells(20, seed=3)
    adata.obs["donor"] = "donor 00"
    vectors = model.get_latent_representation(adata)
    assert vectors.shape == (20, 16)
    model.save(str(tmp_path / "saved"))
    for given in (False, adata.copy()):
        loaded = cls.load(str(tmp_path / "saved"), adata=given, accelerator="cpu")
        np.testing.assert_allclose(loaded.get_latent_representation(adata), vectors, atol=1e-5)
    loaded.train(max_epochs=1, batch_size=10, train_size=0.5, **TRAIN)  # on the data that it was loaded with
    model.save_pretrained(tmp_path / "pretrained")
    assert (tmp_path / "pretrained" / "model.safetensors").exists()
    if cls is CellClassifier:
        np.testing.assert_allclose(loaded.predict(adata, soft=True).sum(axis=1), 1, rtol=1e-5)
    if cls is CausalCellModel:
        assert model.generate_cells(3).n_obs == 3


def test_classifier_trains_on_labelled_cells_alone(opened: Any) -> None:
    seen = Seen()
    data = opened(labels_key="partly")
    model = run(data, CellClassifier, callbacks=[seen])
    labelled = np.flatnonzero(data.source.columns["label_index"] >= 0)
    rows = {row for minibatch in seen.minibatches[0] for row in minibatch}
    assert rows < set(labelled.tolist())
    assert len(rows) == data.n_train == len(labelled) - data.n_val
    assert model.labels == ["type 0", "type 1", "type 2"]
    assert float(model.module.network.temperature) != 1.0
    assert bool(model.module.network.distance.has_cells.all())


def test_balanced_weights_know_how_often_labels_occur(opened: Any) -> None:
    data = opened(labels_key="cell_type")
    codes = data.source.columns["label_index"]
    model = CellClassifier(registry=data.registry, loss_weights="balanced", **SIZES)
    weights = np.array(model.module.network.config.label_weights)
    np.testing.assert_allclose(weights * np.bincount(codes), (weights * np.bincount(codes))[0], rtol=1e-5)


@pytest.mark.parametrize("cls", [MaskedCellModel, CellClassifier])
def test_pretrained_models_go_on_with_a_datamodule(cls: Any, opened: Any) -> None:
    pretrained = toy_model(max_length=32)
    data = opened(tokenizer=pretrained, max_length=None, labels_key="cell_type")
    model = cls.from_pretrained(pretrained, registry=data.registry)
    before = model.get_latent_representation(toy_cells(10))
    np.testing.assert_allclose(before, sfm.tl.embed(toy_cells(10), pretrained, copy=True).obsm["X_sfm"], atol=1e-5)
    model.train(max_epochs=1, datamodule=data, **TRAIN)
    assert not np.allclose(model.get_latent_representation(toy_cells(10)), before)


def test_pretrained_models_refuse_other_tokens(opened: Any) -> None:
    registry = opened().registry
    with pytest.raises(ValueError, match="made with another tokenizer or vocabulary"):
        MaskedCellModel.from_pretrained(toy_model(max_length=64), registry=registry)
    with pytest.raises(ValueError, match="both given"):
        MaskedCellModel.from_pretrained(toy_model(), toy_cells(5), registry=registry)
    with pytest.raises(TypeError, match="belongs to an AnnData"):
        MaskedCellModel.from_pretrained(toy_model(), registry=registry, layer="counts")
    with pytest.raises(ValueError, match="no data to go on with"):
        MaskedCellModel.from_pretrained(toy_model())


def test_pairs_need_batches(opened: Any) -> None:
    model = MaskedCellModel(registry=opened(batch_key="donor").registry, objective="pairs", **SIZES)
    data = opened(batch_key="donor", batch_size=12)
    model.train(max_epochs=1, datamodule=data, **TRAIN)
    assert np.isfinite(curve(model, "train_loss")).all()
    with pytest.raises(ValueError, match="batch_key="):
        MaskedCellModel(registry=opened().registry, objective="pairs", **SIZES)


def test_whole_blocks_can_be_held_out(opened: Any) -> None:
    data = opened(split_by="blocks", validation_size=0.3)
    held_out = {row for minibatch in data.val_dataloader() for row in minibatch["cell_index"].tolist()}
    bounds = data.source.block_bounds(8)
    blocks = [set(range(first, last)) for first, last in zip(bounds[:-1], bounds[1:], strict=True)]
    assert all(block <= held_out or not block & held_out for block in blocks)
    assert len(held_out) == data.n_val
    assert opened(validation_size=0.0).val_dataloader() is None


def test_validation_comes_in_the_same_order_each_time(opened: Any) -> None:
    data = opened()
    first, second = ([m["cell_index"].tolist() for m in data.val_dataloader()] for _ in range(2))
    assert first == second


def test_epochs_are_fewer_for_more_cells(opened: Any) -> None:
    model = run(opened(), max_epochs=None, limit_train_batches=1, limit_val_batches=1)
    assert len(curve(model, "train_loss")) == 20


def test_infinite_loss_names_the_cells(opened: Any) -> None:
    with pytest.raises(NonFiniteLossError, match=r"row \d+ of [01].h5ad"):
        run(opened(), plan_kwargs={"lr": 1e20, "warmup": 0.0}, gradient_clip_val=0)


def test_files_are_left_as_they_are(folder: Path, opened: Any) -> None:
    def hashes() -> list[str]:
        return [hashlib.sha256((folder / f"{i}.h5ad").read_bytes()).hexdigest() for i in range(len(N))]

    before = hashes()
    run(opened(labels_key="cell_type"), max_epochs=1)
    assert hashes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 is not a positive number"),
        ({"mixed_blocks": 0}, "mixed_blocks=0"),
        ({"validation_size": 1.0}, "validation_size=1.0"),
        ({"split_by": "genes"}, "Choose 'cells' or 'blocks'"),
        ({"labeled_only": True}, "Pass labels_key="),
        ({"tokenizer": "rank"}, "needs a vocabulary for all files"),
    ],
)
def test_bad_settings_are_named(options: dict[str, Any], message: str, opened: Any) -> None:
    with pytest.raises(ValueError, match=message):
        opened(**options)


def test_settings_of_files_do_not_go_with_a_cache(opened: Any, tmp_path: Path) -> None:
    opened(cache_dir=tmp_path / "cache").prepare_data()
    with pytest.raises(ValueError, match="layer='counts' does not go with a token cache"):
        CellDataModule(tmp_path / "cache", layer="counts")
    with pytest.raises(ValueError, match="was written of other data: its tokenizer"):
        opened(cache_dir=tmp_path / "cache", max_length=16).prepare_data()


def test_models_and_data_must_fit(opened: Any) -> None:
    model = MaskedCellModel(registry=opened().registry, **SIZES)
    with pytest.raises(ValueError, match="made without data. Pass datamodule="):
        model.train(max_epochs=1, **TRAIN)
    with pytest.raises(ValueError, match="tokenizer=model.tokenizer"):
        model.train(max_epochs=1, datamodule=opened(max_length=16), **TRAIN)
    with pytest.raises(ValueError, match="CellClassifier needs labels_key="):
        CellClassifier(registry=opened().registry, **SIZES)
    with pytest.raises(ValueError, match="GeneClassifier needs an AnnData"):
        GeneClassifier(registry=opened().registry, **SIZES)
    classifier = CellClassifier(registry=opened(labels_key="cell_type").registry, **SIZES)
    with pytest.raises(ValueError, match="The datamodule has no labels"):
        classifier.train(max_epochs=1, datamodule=opened(), **TRAIN)
    with pytest.raises(ValueError, match="The datamodule has the labels 'donor 00'"):
        classifier.train(max_epochs=1, datamodule=opened(labels_key="donor"), **TRAIN)
