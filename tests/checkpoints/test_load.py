from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import sfm
from sfm.checkpoints import PretrainedCells
from sfm.checkpoints._weights import weights_hash
from sfm.datasets import toy_cells, toy_model


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    toy_model().save_pretrained(tmp_path / "model", card="# A toy")
    return tmp_path / "model"


def test_files(directory: Path) -> None:
    names = {path.name for path in directory.iterdir()}
    assert names == {"config.json", "model.safetensors", "vocabulary.json", "cell_tokenizer.json", "README.md"}


def test_round_trip(toy_pretrained: PretrainedCells, tmp_path: Path) -> None:
    toy_pretrained.save_pretrained(tmp_path)
    loaded = sfm.load(tmp_path)
    assert loaded.vocabulary == toy_pretrained.vocabulary
    assert loaded.tokenizer.to_dict() == toy_pretrained.tokenizer.to_dict()
    assert weights_hash(loaded.model) == weights_hash(toy_pretrained.model)
    adata = toy_cells(30)
    sfm.tl.embed(adata, loaded)
    sfm.tl.embed(adata, toy_pretrained, key_added="before")
    assert np.array_equal(adata.obsm["X_sfm"], adata.obsm["before"])


def test_what_cannot_be_saved_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="A object cannot be saved"):
        PretrainedCells(object(), toy_model().tokenizer, name="bare").save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_no_name_at_all_is_refused() -> None:
    with pytest.raises(TypeError, match=r"name_or_path=None names no model\. Pass a name from `sfm.list_models\(\)`"):
        sfm.load(None)


def test_weights_hash_changes_with_a_weight() -> None:
    model = toy_model().model
    before = weights_hash(model)
    with torch.no_grad():
        model.head.bias[0] += 1e-6
    assert weights_hash(model) != before


def test_half_precision_on_disk_is_float32_in_memory(directory: Path) -> None:
    weights = {name: tensor.half() for name, tensor in load_file(directory / "model.safetensors").items()}
    save_file(weights, directory / "model.safetensors")
    assert {weight.dtype for weight in sfm.load(directory).model.parameters()} == {torch.float32}


def test_bundled_model_is_the_default() -> None:
    adata = toy_cells(10)
    sfm.tl.embed(adata)
    assert adata.uns["X_sfm"]["params"]["model"] == "sfm-mini"
    assert sum(path.stat().st_size for path in Path(sfm.__file__).parent.glob("resources/sfm_mini/*")) < 10e6


class Exploit:
    """Unpickling this writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_named_safetensors_is_not_opened(directory: Path, tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps(Exploit(tmp_path / "ran"), protocol=protocol)
    (directory / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"model.safetensors' (is a pickle|cannot be read as safetensors)"):
        sfm.load(directory)
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_need_trust(directory: Path, tmp_path: Path) -> None:
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    torch.save(weights, directory / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"'pytorch_model.bin', a pickle.*trust_pickle=True"):
        sfm.load(directory)
    loaded = sfm.load(directory, trust_pickle=True)
    assert weights_hash(loaded.model) == weights_hash(toy_model().model)

    torch.save(Exploit(tmp_path / "ran"), directory / "pytorch_model.bin")
    with pytest.raises(ValueError, match="a pickle"):
        sfm.load(directory)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["config.json", "vocabulary.json", "cell_tokenizer.json", "model.safetensors"])
def test_truncated_file_is_named(directory: Path, file: str) -> None:
    content = (directory / file).read_bytes()
    (directory / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=file.replace(".", r"\.")):
        sfm.load(directory)


@pytest.mark.parametrize("file", ["config.json", "vocabulary.json", "cell_tokenizer.json", "model.safetensors"])
def test_missing_file_is_named(directory: Path, file: str) -> None:
    (directory / file).unlink()
    with pytest.raises(FileNotFoundError, match=file.replace(".", r"\.")):
        sfm.load(directory)


def drop_weight(weights: dict[str, torch.Tensor]) -> str:
    del weights["head.transform.bias"]
    return r"1 missing \(head.transform.bias\)"


def add_weight(weights: dict[str, torch.Tensor]) -> str:
    weights["head.extra"] = torch.zeros(1)
    return r"1 unexpected \(head.extra\)"


def reshape_weight(weights: dict[str, torch.Tensor]) -> str:
    weights["head.transform.bias"] = torch.zeros(3)
    return r"1 of another shape \(head.transform.bias\)"


@pytest.mark.parametrize("change", [drop_weight, add_weight, reshape_weight])
def test_partial_weights_are_refused(directory: Path, change: object) -> None:
    weights = load_file(directory / "model.safetensors")
    message = change(weights)
    save_file(weights, directory / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        sfm.load(directory)


def test_vocabulary_of_another_model_is_refused(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    weights = load_file(directory / "model.safetensors")
    weights["cell.embedder.genes.weight"] = weights["cell.embedder.genes.weight"][:100].clone()
    weights["head.bias"] = weights["head.bias"][:100].clone()
    save_file(weights, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))
    with pytest.raises(ValueError, match="vocabulary belongs to another model"):
        sfm.load(directory)


def test_unknown_architecture_is_named(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"architectures": ["CellForNothing"]}))
    with pytest.raises(ValueError, match="architecture 'CellForNothing'"):
        sfm.load(directory)


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Unknown model 'sfm-maxi'.*'sfm-mini'"):
        sfm.load("sfm-maxi")
    (tmp_path / "weights.pkl").write_bytes(b"")
    with pytest.raises(ValueError, match="is a pickle, not a model directory"):
        sfm.load(tmp_path / "weights.pkl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="is not a model directory"):
        sfm.load(tmp_path / "empty")
    (tmp_path / "empty" / "model.pt").touch()
    with pytest.raises(FileNotFoundError, match="read it with the `load` of that class"):
        sfm.load(tmp_path / "empty")


@pytest.mark.parametrize(
    "path", ["/nope/dir", "./nope", "../nope", "~/nope", "nope/", "C:\\models\\nope", "no where/nope", "org//nope"]
)
def test_a_path_that_is_not_there_is_named_with_where_it_was_looked_for(path: str) -> None:
    looked_for = str(Path(path).expanduser().absolute())
    for given in (path, Path(path)):
        with pytest.raises(FileNotFoundError) as refused:
            sfm.load(given)
        assert f"Did not find the directory {str(given)!r} (looked for {looked_for!r})" in str(refused.value)


def test_a_path_object_is_never_a_name_or_a_hub_id() -> None:
    for path in (Path("nope"), Path("org/nope")):
        with pytest.raises(FileNotFoundError, match="Did not find the directory"):
            sfm.load(path)


def test_a_missing_path_is_the_same_error_wherever_a_model_is_taken() -> None:
    adata, labelled = toy_cells(20), toy_cells(20)
    for call in (
        lambda: sfm.tl.embed(adata, "/nope/dir"),
        lambda: sfm.tl.annotate(adata, "/nope/dir"),
        lambda: sfm.tl.annotate(adata, Path("nope")),
        lambda: sfm.tl.annotate(adata, labelled, model="/nope/dir"),
    ):
        with pytest.raises(FileNotFoundError, match="Did not find the directory '/?nope"):
            call()
    assert not adata.obsm
