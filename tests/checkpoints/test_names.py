"""Models by their names, with the files of the goldens in place of the published ones."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import sfm
from sfm.checkpoints import _catalogue
from sfm.checkpoints._cache import model_folder
from sfm.checkpoints._catalogue import known_entries
from sfm.checkpoints._sources import ManualSource, RemoteFile, UrlSource

if TYPE_CHECKING:
    from sfm.checkpoints import PretrainedCells

TESTS = Path(__file__).parents[1]
ROOTS = (TESTS / "goldens", TESTS.parents[1] / "shared" / "goldens")


def golden(family: str, *folders: str, files: tuple[str, ...] = ()) -> Path:
    """Folder with a tiny model in the published layout, and with these files somewhere in it."""
    candidates = [root / family / folder for root in ROOTS for folder in folders]
    found = [path for path in candidates if path.is_dir() and all(any(path.rglob(file)) for file in files)]
    if not found:
        pytest.skip(f"no golden of {family}")
    return found[0]


def only(family: str) -> None:
    if family not in sfm.list_models()["family"].tolist():
        pytest.skip(f"{family} is not read yet")


def hashes(pretrained: PretrainedCells) -> tuple[str, str]:
    params = pretrained.params()
    return params["weights_hash"], params["vocabulary_hash"]


def serve(server: Any, entry_name: str, contents: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve files in place of those of a model of the catalogue, archives packed."""
    entry = known_entries()[entry_name]
    assert isinstance(entry.source, UrlSource)
    files: list[RemoteFile] = []
    for i, file in enumerate(entry.source.files):
        if file.archive:
            with tarfile.open(server.folder / str(i), "w:gz") as archive:
                archive.add(contents[file.path], file.path)
        else:
            shutil.copy(contents[file.path], server.folder / str(i))
        content = (server.folder / str(i)).read_bytes()
        known = {
            "size": file.size and len(content),
            "md5": file.md5 and hashlib.md5(content, usedforsecurity=False).hexdigest(),
        }
        files.append(replace(file, url=f"{server.url}/{i}", **known))
    served = replace(entry, source=replace(entry.source, files=tuple(files)))
    catalogue = [served if known.name == entry_name else known for known in _catalogue.CATALOGUE]
    monkeypatch.setattr(_catalogue, "CATALOGUE", tuple(catalogue))


@pytest.mark.usefixtures("cache")
def test_transcriptformer(file_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    only("transcriptformer")
    folder = golden("transcriptformer", "checkpoint", "A/checkpoint")
    serve(file_server, "transcriptformer-sapiens", {"tf_sapiens": folder}, monkeypatch)
    loaded = sfm.load("transcriptformer-sapiens")
    assert hashes(loaded) == hashes(sfm.load(folder))
    assert loaded.name == "transcriptformer-sapiens"
    assert len(file_server.requests) == 1


@pytest.mark.usefixtures("cache")
def test_both_models_of_uce_share_what_they_can(file_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    only("uce")
    folder = golden("uce", "model_files", "A/model_files")
    weights = dict.fromkeys(("4layer_model.torch", "33l_8ep_1024t_1280.torch"), folder / "2layer_model.torch")
    contents = weights | {
        name: folder / name for name in ("species_chrom.csv", "species_offsets.pkl", "protein_embeddings")
    }
    options = {"n_heads": 4} if "n_heads" in known_options("uce") else {}
    serve(file_server, "uce-4l", contents, monkeypatch)
    first = sfm.load("uce-4l", **options)
    assert hashes(first) == hashes(sfm.load(folder, **options))
    serve(file_server, "uce-33l", contents, monkeypatch)
    file_server.requests.clear()
    assert hashes(sfm.load("uce-33l", **options)) == hashes(first)
    assert [path for path, _ in file_server.requests] == ["3"]  # the weights alone


def known_options(family: str) -> set[str]:
    from sfm.checkpoints._family import FAMILIES

    return set(FAMILIES.load(family).options)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("name", "family", "folders"),
    [
        ("scgpt-human", "scgpt", ["model", "A/model"]),
        ("scfoundation", "scfoundation", ["A", "."]),
        ("cellplm-85m", "cellplm", ["ckpt", "A/ckpt"]),
    ],
)
def test_models_that_a_browser_must_fetch(name: str, family: str, folders: list[str]) -> None:
    only(family)
    source = known_entries()[name].source
    assert isinstance(source, ManualSource)
    folder = golden(family, *folders, files=source.files)
    with pytest.raises(FileNotFoundError, match="https://"):
        sfm.load(name)
    for file in source.files:
        [found] = folder.rglob(file)
        shutil.copy(found, model_folder(name) / file)
    loaded = sfm.load(name)
    assert hashes(loaded) == hashes(sfm.load(folder))
    assert loaded.name == name
