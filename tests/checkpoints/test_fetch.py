"""Downloads from their own addresses, against a server on this machine."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import sfm
from sfm.checkpoints import _catalogue
from sfm.checkpoints._download import download
from sfm.checkpoints._fetch import beside, fetch
from sfm.checkpoints._sources import CatalogueEntry, ManualSource, RemoteFile, UrlSource
from sfm.datasets import toy_model

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = os.urandom(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def remote(file_server: Any) -> RemoteFile:
    (file_server.folder / "weights.bin").write_bytes(CONTENT)
    return RemoteFile(f"{file_server.url}/weights.bin", "weights.bin", sha256=SHA256, size=len(CONTENT))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here" / "weights.bin"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def ranges(server: Any) -> list[str | None]:
    return [wanted for _, wanted in server.requests]


def test_a_file_arrives_whole_and_leaves_nothing_behind(remote: RemoteFile, target: Path) -> None:
    download(remote, target)
    assert target.read_bytes() == CONTENT
    assert names(target.parent) == ["weights.bin"]


def test_a_broken_connection_is_continued(file_server: Any, remote: RemoteFile, target: Path) -> None:
    file_server.breaks = [100_000, 50_000]
    download(remote, target)
    assert target.read_bytes() == CONTENT
    assert ranges(file_server) == [None, "bytes=100000-", "bytes=150000-"]


def test_the_next_call_continues(file_server: Any, remote: RemoteFile, target: Path) -> None:
    file_server.breaks = [100_000, 0]
    with pytest.raises(ConnectionError, match=r"ended after 100,000 of 300,000 bytes.*is kept"):
        download(remote, target)
    assert not target.exists()
    file_server.requests.clear()
    download(remote, target)
    assert target.read_bytes() == CONTENT
    assert ranges(file_server) == ["bytes=100000-"]


def test_a_part_that_is_already_whole_is_not_sent_again(file_server: Any, remote: RemoteFile, target: Path) -> None:
    file_server.breaks = [100_000, 0]
    with pytest.raises(ConnectionError):
        download(remote, target)
    target.with_name("weights.bin.part").write_bytes(CONTENT)
    download(remote, target)
    assert ranges(file_server)[-1] == "bytes=300000-"
    assert target.read_bytes() == CONTENT


def test_a_part_of_another_version_is_not_continued(file_server: Any, remote: RemoteFile, target: Path) -> None:
    (file_server.folder / "weights.bin").write_bytes(CONTENT[::-1])
    file_server.breaks = [100_000, 0]
    with pytest.raises(ConnectionError):
        download(remote, target)
    (file_server.folder / "weights.bin").write_bytes(CONTENT)
    download(RemoteFile(remote.url, remote.path), target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("lacking", ["ranges", "etags"])
def test_a_server_that_cannot_continue_sends_all_again(
    file_server: Any, remote: RemoteFile, target: Path, lacking: str
) -> None:
    setattr(file_server, lacking, False)
    file_server.breaks = [100_000]
    download(remote, target)
    assert target.read_bytes() == CONTENT
    assert len(file_server.requests) == 2


def test_a_file_that_stays_truncated_is_an_error(file_server: Any, remote: RemoteFile, target: Path) -> None:
    file_server.ranges = False
    file_server.breaks = [100_000] * 5
    with pytest.raises(ConnectionError, match=r"weights\.bin.*ended after 100,000 of 300,000 bytes.*put it at"):
        download(remote, target)
    assert len(file_server.requests) == 2
    assert not target.exists()


def test_a_file_that_is_found_elsewhere_is_continued_there(file_server: Any, remote: RemoteFile, target: Path) -> None:
    file_server.redirects = {"file/download/7": "weights.bin"}
    file_server.breaks = [100_000]
    download(replace(remote, url=f"{file_server.url}/file/download/7"), target)
    assert target.read_bytes() == CONTENT
    assert file_server.requests[-1] == ("weights.bin", "bytes=100000-")


def test_a_wrong_hash_names_both(file_server: Any, remote: RemoteFile, target: Path) -> None:
    other = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    (file_server.folder / "weights.bin").write_bytes(other)
    with pytest.raises(ValueError, match=f"{hashlib.sha256(other).hexdigest()}.*{SHA256}"):
        download(remote, target)
    assert names(target.parent) == []
    (file_server.folder / "weights.bin").write_bytes(CONTENT)
    download(remote, target)
    assert target.read_bytes() == CONTENT


def test_where_only_an_md5_is_known_it_is_what_counts(file_server: Any, target: Path) -> None:
    known = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    remote = RemoteFile(f"{file_server.url}/weights.bin", "weights.bin", md5=known)
    (file_server.folder / "weights.bin").write_bytes(CONTENT[::-1])
    with pytest.raises(ValueError, match=f"has the MD5 .* must have {known}"):
        download(remote, target)
    assert names(target.parent) == []
    (file_server.folder / "weights.bin").write_bytes(CONTENT)
    download(remote, target)
    assert target.read_bytes() == CONTENT


def test_a_wrong_length_names_both(file_server: Any, remote: RemoteFile, target: Path) -> None:
    (file_server.folder / "weights.bin").write_bytes(b"<html>")
    with pytest.raises(ValueError, match="has 6 bytes, but 'weights.bin' must have 300,000"):
        download(remote, target)
    assert names(target.parent) == []


@pytest.mark.parametrize(
    ("status", "error"), [(404, FileNotFoundError), (410, FileNotFoundError), (503, ConnectionError)]
)
def test_the_answer_of_the_server_is_named(
    file_server: Any, remote: RemoteFile, target: Path, status: int, error: type[Exception]
) -> None:
    file_server.status = status
    with pytest.raises(error, match=rf"weights\.bin' answered {status}.*put it at '.*weights\.bin'"):
        download(remote, target)
    assert names(target.parent) == []


def test_an_empty_success_is_no_file(file_server: Any, remote: RemoteFile, target: Path) -> None:
    file_server.status = 202
    with pytest.raises(ConnectionError, match="answered 202"):
        download(remote, target)
    assert not target.exists()


def test_no_connection(target: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(ConnectionError, match=f"Could not download 'http://127.0.0.1:{port}/x'.*refused"):
        download(RemoteFile(f"http://127.0.0.1:{port}/x", "x"), target)


def test_a_file_larger_than_the_disk_is_not_begun(file_server: Any, remote: RemoteFile, target: Path) -> None:
    file_server.claimed_length = 10**18
    with pytest.raises(OSError, match=r"do not fit on the disk.*SFM_CACHE") as caught:
        download(remote, target)
    assert caught.value.errno == errno.ENOSPC
    assert not target.with_name("weights.bin.part").exists()


def test_a_bar_is_shown_unless_verbosity_is_zero(
    remote: RemoteFile, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import scanpy as sc

    before = sc.settings.verbosity
    try:
        for level in (1, 0):
            sc.settings.verbosity = level
            download(remote, target)
            assert ("weights.bin" in capsys.readouterr().err) is bool(level)
    finally:
        sc.settings.verbosity = before


def test_a_file_that_is_there_is_not_fetched(file_server: Any, remote: RemoteFile, tmp_path: Path) -> None:
    source = UrlSource("page", (remote,))
    fetch(source, tmp_path / "model", name="toy")
    fetch(source, tmp_path / "model", name="toy")
    assert len(file_server.requests) == 1


def test_models_share_files(file_server: Any, remote: RemoteFile, tmp_path: Path) -> None:
    source = UrlSource("page", (remote,))
    fetch(source, tmp_path / "first", name="first")
    fetch(source, tmp_path / "second", name="second", others=[tmp_path / "none", tmp_path / "first"])
    assert (tmp_path / "second" / "weights.bin").read_bytes() == CONTENT
    assert len(file_server.requests) == 1


def test_two_callers_fetch_once(file_server: Any, remote: RemoteFile, tmp_path: Path) -> None:
    source = UrlSource("page", (remote,))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fetch(source, tmp_path / "model", name="toy"), range(4)))
    assert (tmp_path / "model" / "weights.bin").read_bytes() == CONTENT
    assert len(file_server.requests) == 1


@pytest.mark.usefixtures("offline")
def test_offline_says_what_to_put_where(file_server: Any, remote: RemoteFile, tmp_path: Path) -> None:
    source = UrlSource("page", (remote,))
    with pytest.raises(FileNotFoundError, match=r"HF_HUB_OFFLINE.*weights\.bin on another.*'.*model/weights\.bin'"):
        fetch(source, tmp_path / "model", name="toy")
    (tmp_path / "model" / "weights.bin").write_bytes(CONTENT)
    fetch(source, tmp_path / "model", name="toy")
    assert file_server.requests == []


def test_companions_are_put_beside_the_files_of_a_hub_model(
    file_server: Any, remote: RemoteFile, tmp_path: Path
) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (tmp_path / "blob").write_bytes(b"config")
    (snapshot / "config.json").symlink_to(tmp_path / "blob")  # as in the cache of the hub
    for revision in ("one", "two", "one"):
        together = beside(snapshot, [remote], tmp_path / "model", name="toy", revision=revision)
        assert {path.name: path.read_bytes() for path in together.iterdir()} == {
            "config.json": b"config",
            "weights.bin": CONTENT,
        }
        assert not (together / "config.json").is_symlink()
    assert len(file_server.requests) == 1
    assert [path.name for path in snapshot.iterdir()] == ["config.json"]


# By name, from the catalogue to the model.


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a model into the catalogue."""

    def add(source: Any, name: str = "toy") -> None:
        entry = CatalogueEntry(name=name, family="sfm", source=source)
        monkeypatch.setattr(_catalogue, "CATALOGUE", (*_catalogue.CATALOGUE, entry))

    return add


def weights_hash(name: str) -> str:
    return sfm.load(name).params()["weights_hash"]


@pytest.fixture
def toy_archive(file_server: Any, tmp_path: Path) -> UrlSource:
    toy_model().save_pretrained(tmp_path / "tf_toy")
    with tarfile.open(file_server.folder / "toy.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "tf_toy", "tf_toy")
    return UrlSource("page", (RemoteFile(f"{file_server.url}/toy.tar.gz", "tf_toy", archive=True),))


@pytest.mark.usefixtures("cache")
def test_a_name_with_an_archive(file_server: Any, toy_archive: UrlSource, known: Any) -> None:
    known(toy_archive)
    assert weights_hash("toy") == weights_hash("toy") == toy_model().params()["weights_hash"]
    assert len(file_server.requests) == 1


@pytest.mark.usefixtures("offline")
def test_an_archive_put_there_by_hand_is_unpacked(
    file_server: Any, toy_archive: UrlSource, known: Any, cache: Path
) -> None:
    known(toy_archive)
    with pytest.raises(FileNotFoundError, match=r"models/toy/tf_toy\.tar\.gz"):
        sfm.load("toy")
    shutil.copy(file_server.folder / "toy.tar.gz", cache / "models" / "toy" / "tf_toy.tar.gz")
    assert weights_hash("toy") == toy_model().params()["weights_hash"]
    assert file_server.requests == []


@pytest.mark.usefixtures("cache")
def test_a_truncated_archive_is_named_and_not_used(file_server: Any, toy_archive: UrlSource, known: Any) -> None:
    known(toy_archive)
    path = file_server.folder / "toy.tar.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    for _ in range(2):
        with pytest.raises(ValueError, match=r"tf_toy\.tar\.gz' cannot be unpacked.*truncated"):
            sfm.load("toy")
    path.write_bytes(whole)
    assert weights_hash("toy") == toy_model().params()["weights_hash"]


def test_a_model_without_an_address_is_asked_for(known: Any, cache: Path, tmp_path: Path) -> None:
    files = ("config.json", "model.safetensors", "vocabulary.json", "cell_tokenizer.json")
    known(ManualSource("https://drive.example/folder", files, elsewhere=(("vocabulary.json", "https://code.example"),)))
    with pytest.raises(FileNotFoundError) as caught:
        sfm.load("toy")
    message = str(caught.value)
    assert "'config.json', 'model.safetensors', 'cell_tokenizer.json' from https://drive.example/folder" in message
    assert "'vocabulary.json' from https://code.example" in message
    assert repr(str(cache / "models" / "toy")) in message

    toy_model().save_pretrained(tmp_path / "download")
    shutil.copytree(tmp_path / "download", cache / "models" / "toy", dirs_exist_ok=True)
    (cache / "models" / "toy" / "config.json").rename(tmp_path / "config.json")
    with pytest.raises(FileNotFoundError, match=r"browser 'config\.json' from https://drive\.example/folder\. Put"):
        sfm.load("toy")
    (tmp_path / "config.json").rename(cache / "models" / "toy" / "config.json")
    assert weights_hash("toy") == toy_model().params()["weights_hash"]


def test_a_revision_of_what_is_not_on_the_hub_is_refused(tmp_path: Path) -> None:
    for name in ("sfm-mini", tmp_path):
        with pytest.raises(ValueError, match=f"revision='v1' is for models on the Hugging Face hub, but '{name}'"):
            sfm.load(name, revision="v1")
