"""Unpacking archives: nothing outside the folder, nothing but plain files, nothing half-done."""

from __future__ import annotations

import hashlib
import io
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from contextlib import contextmanager
from functools import partial
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from filelock import FileLock

from sfm import _logging as logg
from sfm.checkpoints._cache import cache_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    #: Name in the archive, and what opens it.
    Member = tuple[str, Callable[[], IO[bytes]]]

SUFFIXES = (".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tar.xz", ".zip")
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, zlib.error, LZMAError)
_TAR_BLOCK = 512
_CHUNK = 2**20


def is_archive(path: Path) -> bool:
    """Whether the name of a file is that of an archive."""
    return path.name.lower().endswith(SUFFIXES)


def unpacked(archive: Path) -> Path:
    """Return the folder of the model in an archive, unpacked into the cache when it is first asked for."""
    about = archive.stat()
    version = f"{archive.resolve()} {about.st_size} {about.st_mtime_ns}"
    digest = hashlib.sha256(version.encode()).hexdigest()[:16]
    folder = cache_folder() / "archives" / f"{archive.name.split('.')[0]}-{digest}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not folder.exists():
            unpack(archive, folder)
    return folder


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive into a new folder, which is there when all of it is.

    If everything in the archive is inside one folder, that is the folder.

    Raises
    ------
    ValueError
        If the archive is damaged, or holds something that does not belong in it.
    """
    logg.info(f"unpacking {str(archive)!r}")
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        inside = Path(temporary) / "content"
        inside.mkdir()
        with _damage_named(archive):
            for name, open_member in _members(archive):
                _write(archive, inside, name, open_member)
        _only_folder(inside).rename(folder)


def _write(archive: Path, folder: Path, name: str, open_member: Callable[[], IO[bytes]]) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or not path.parts or ".." in path.parts or ":" in path.parts[0]:
        msg = f"{str(archive)!r} holds {name!r}, which would be written outside of its folder. Nothing was unpacked."
        raise ValueError(msg)
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_member() as source, target.open("wb") as out:
        shutil.copyfileobj(source, out, _CHUNK)


def _members(archive: Path) -> Iterator[Member]:
    # By its start alone: a tar that ends with a file of torch, which is a zip archive, would pass `is_zipfile`.
    with archive.open("rb") as file:
        is_zip = file.read(2) == b"PK" or archive.suffix.lower() == ".zip"
    return _zip_members(archive) if is_zip else _tar_members(archive)


def _tar_members(archive: Path) -> Iterator[Member]:
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isdir():
                continue
            if not member.isreg():
                raise _not_a_file(archive, member.name)
            yield member.name, partial(_opened, tar, member)
        stream = tar.fileobj
        if isinstance(stream, io.BufferedReader):  # not compressed, so nothing else tells a broken header from the end
            stream.seek(tar.offset)
            if stream.read(_TAR_BLOCK) != bytes(_TAR_BLOCK):
                msg = "unexpected end of data"
                raise tarfile.ReadError(msg)
        # The checksum of a compressed stream is behind its end.
        while stream is not None and stream.read(_CHUNK):
            pass


def _opened(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = tar.extractfile(member)
    if stream is None:
        msg = f"{member.name!r} has no content"
        raise tarfile.ReadError(msg)
    return stream


def _zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as content:
        _refuse_inner_zip(content)
        for member in content.infolist():
            if member.is_dir():
                continue
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise _not_a_file(archive, member.filename)
            yield member.filename, partial(content.open, member)


def _refuse_inner_zip(content: zipfile.ZipFile) -> None:
    """Raise if what was found is an archive inside of one whose end is missing, such as a file of torch."""
    if min((member.header_offset for member in content.infolist()), default=0) > 0:
        msg = "its list of files is missing"
        raise zipfile.BadZipFile(msg)


def _not_a_file(archive: Path, name: str) -> ValueError:
    msg = f"{str(archive)!r} holds {name!r}, which is a link or a device, not a file. Nothing was unpacked."
    return ValueError(msg)


@contextmanager
def _damage_named(archive: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of the archive
            raise
        why = str(error).partition("\n")[0].rstrip(":")
        msg = (
            f"{str(archive)!r} cannot be unpacked ({why}). It is truncated or no archive: download it again. Nothing "
            "was unpacked."
        )
        raise ValueError(msg) from error


def _only_folder(folder: Path) -> Path:
    """Descend as long as there is nothing but one folder."""
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return _only_folder(inside[0]) if len(inside) == 1 and inside[0].is_dir() else folder
