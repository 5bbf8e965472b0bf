"""Archives: models in them are read, and nothing in them can do harm."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest
import torch

import sfm
from sfm.checkpoints._archive import unpack
from sfm.datasets import toy_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("cache")

ENDINGS = [".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tar.xz", ".zip"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    toy_model().save_pretrained(folder)
    return folder


def pack(folder: Path, archive: Path, *, inside: str = "model") -> Path:
    """Put the files of a folder into an archive, in the folder `inside` of it."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as content:
            for path in folder.iterdir():
                content.write(path, f"{inside}/{path.name}".strip("/"))
        return archive
    mode = {".gz": "w:gz", ".tgz": "w:gz", ".tar": "w", ".bz2": "w:bz2", ".xz": "w:xz"}[archive.suffix]
    with tarfile.open(archive, mode) as content:
        for path in folder.iterdir():
            content.add(path, f"{inside}/{path.name}".strip("/"))
    return archive


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_kind_is_read(model: Path, tmp_path: Path, ending: str) -> None:
    unpack(pack(model, tmp_path / f"any{ending}"), tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {
        path.name: path.read_bytes() for path in model.iterdir()
    }


@pytest.mark.parametrize("inside", ["", "model", "deep/down"])
def test_load_finds_the_model_wherever_it_is_inside(model: Path, tmp_path: Path, inside: str) -> None:
    loaded = sfm.load(pack(model, tmp_path / "my.model.tar.gz", inside=inside))
    assert loaded.params()["weights_hash"] == toy_model().params()["weights_hash"]
    assert loaded.name == str(tmp_path / "my.model.tar.gz")


def test_an_archive_is_unpacked_once_and_again_when_it_changes(model: Path, tmp_path: Path, cache: Path) -> None:
    archive = pack(model, tmp_path / "model.zip")
    for _ in range(2):
        sfm.load(archive)
    folders = [path for path in (cache / "archives").iterdir() if path.is_dir()]
    assert len(folders) == 1

    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    pack(tmp_path / "other", archive)
    with pytest.raises(FileNotFoundError, match=r"', where '.*model\.zip' is, is not a model directory"):
        sfm.load(archive)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kept", [0.3, 0.95])
def test_a_truncated_archive_is_named_and_leaves_nothing(
    model: Path, tmp_path: Path, cache: Path, ending: str, kept: float
) -> None:
    archive = pack(model, tmp_path / f"cut{ending}")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ValueError, match=rf"cut{ending}' cannot be unpacked.*truncated".replace(".tar", r"\.tar")):
        sfm.load(archive)
    assert [path for path in (cache / "archives").iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("ending", [".zip", ".tar"])
def test_files_of_torch_inside_are_not_taken_for_the_archive(tmp_path: Path, cache: Path, ending: str) -> None:
    # They are zip archives themselves, and `zipfile` skips what is before one.
    (tmp_path / "scgpt").mkdir()
    for name in ("a.pt", "b.pt", "c.pt"):
        torch.save({"weight": torch.zeros(5000)}, tmp_path / "scgpt" / name)
    archive = pack(tmp_path / "scgpt", tmp_path / f"whole{ending}")
    unpack(archive, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.pt", "b.pt", "c.pt"}

    whole = archive.read_bytes()
    for kept in range(5, 90, 5):
        cut = tmp_path / f"cut{kept}{ending}"
        cut.write_bytes(whole[: len(whole) * kept // 100])
        with pytest.raises(ValueError, match="cannot be unpacked.*truncated"):
            sfm.load(cut)
    assert [path for path in (cache / "archives").iterdir() if path.is_dir()] == []


def test_a_tar_broken_in_the_middle_is_not_taken_for_its_beginning(model: Path, tmp_path: Path) -> None:
    archive = pack(model, tmp_path / "model.tar")
    with tarfile.open(archive) as tar:
        second = tar.getmembers()[1].offset
    content = bytearray(archive.read_bytes())
    content[second : second + 512] = b"x" * 512
    archive.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be unpacked"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_byte_is_noticed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as content:
        content.writestr("model.safetensors", b"a" * 1000)
    damaged = (tmp_path / "x.zip").read_bytes().replace(b"a" * 1000, b"a" * 999 + b"b")
    (tmp_path / "x.zip").write_bytes(damaged)
    with pytest.raises(ValueError, match="cannot be unpacked.*CRC"):
        unpack(tmp_path / "x.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# What an attacker may put in.

OUTSIDE = ["../evil", "a/../../evil", "/tmp/sfm-evil", "..\\evil", "C:\\evil"]


def tar_with(archive: Path, change: Callable[[tarfile.TarInfo], None]) -> Path:
    with tarfile.open(archive, "w:gz") as content:
        good = tarfile.TarInfo("good.txt")
        content.addfile(good, io.BytesIO())
        member = tarfile.TarInfo("evil")
        change(member)
        content.addfile(member, io.BytesIO(b"evil") if member.isreg() else None)
    return archive


def refused(archive: Path, tmp_path: Path, why: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=rf"{archive.name}' holds .*{why}.*Nothing was unpacked"):
        unpack(archive, tmp_path / "sub" / "out")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture(autouse=True)
def _sub(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_no_file_is_written_outside(tmp_path: Path, name: str, kind: str) -> None:
    if kind == "tar":

        def rename(member: tarfile.TarInfo) -> None:
            member.name = name
            member.size = 4

        archive = tar_with(tmp_path / "a.tar.gz", rename)
    else:
        archive = tmp_path / "a.zip"
        with zipfile.ZipFile(archive, "w") as content:
            content.writestr("good.txt", b"")
            content.writestr(zipfile.ZipInfo(name), b"evil")
    refused(archive, tmp_path, "outside of its folder")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    def change(member: tarfile.TarInfo) -> None:
        member.type = kind
        member.linkname = "/etc/passwd"

    refused(tar_with(tmp_path / "a.tar.gz", change), tmp_path, "link or a device")


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("evil")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as content:
        content.writestr(link, "/etc/passwd")
    refused(tmp_path / "a.zip", tmp_path, "link or a device")


def test_permissions_are_not_taken_over(tmp_path: Path) -> None:
    def change(member: tarfile.TarInfo) -> None:
        member.size, member.mode = 4, 0o6777

    unpack(tar_with(tmp_path / "a.tar.gz", change), tmp_path / "out")
    assert (tmp_path / "out" / "evil").stat().st_mode & 0o7111 == 0


@pytest.mark.parametrize("name", ["missing.tar.gz", "folder/missing.zip"])
def test_an_archive_that_is_not_there(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"Did not find the archive '{name}'"):
        sfm.load(name)


def test_other_files_are_no_archives(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"is a pickle, not a model directory.*archive of it \(\.tar\.gz"):
        sfm.load(tmp_path / "weights.pt")
    (tmp_path / "page.zip").write_text("<html>")
    with pytest.raises(ValueError, match=r"page\.zip' cannot be unpacked.*no archive"):
        sfm.load(tmp_path / "page.zip")
