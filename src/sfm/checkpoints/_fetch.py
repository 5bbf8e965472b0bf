"""Files of models that are not on a hub: fetched once into the folder of the model, or asked for."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from filelock import FileLock

from sfm import _logging as logg
from sfm.checkpoints._archive import unpack
from sfm.checkpoints._cache import is_offline
from sfm.checkpoints._download import download
from sfm.checkpoints._sources import UrlSource

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sfm.checkpoints._sources import ManualSource, RemoteFile


def fetch(source: UrlSource, folder: Path, *, name: str, others: Sequence[Path] = ()) -> None:
    """Bring the files of a model into its folder, those that are not there.

    Parameters
    ----------
    source
        Where the files are.
    folder
        Folder of the model.
    name
        Name of the model.
    others
        Folders of models that share files with it.

    Raises
    ------
    FileNotFoundError
        If a file is missing, and downloads are switched off or the server does not have it.
    ConnectionError, OSError, ValueError
        As in :func:`~sfm.checkpoints._download.download` and :func:`~sfm.checkpoints._archive.unpack`.
    """
    if all((folder / file.path).exists() for file in source.files):
        return
    folder.mkdir(parents=True, exist_ok=True)
    # Whoever comes second waits, and finds the files.
    with FileLock(folder / ".lock"):
        for file in source.files:
            target = folder / file.path
            if target.exists():
                continue
            shared = next((other / file.path for other in others if (other / file.path).exists()), None)
            if shared is not None:
                _link(shared, target)
            else:
                _fetch_file(file, target, name=name)


def beside(directory: Path, files: Sequence[RemoteFile], folder: Path, *, name: str, revision: str) -> Path:
    """Bring files from elsewhere into a folder that also has, as links, those of a hub model; return that folder."""
    fetch(UrlSource("", tuple(files)), folder, name=name)
    together = folder / revision
    together.mkdir(exist_ok=True)
    paths = {path.name: path for path in directory.iterdir()} | {file.path: folder / file.path for file in files}
    with FileLock(folder / ".lock"):
        for path, source in paths.items():
            if not (together / path).exists():
                _link(source.resolve(), together / path)
    return together


def require(source: ManualSource, folder: Path, *, name: str) -> None:
    """Raise unless the files of a model that has no direct address are in its folder, which is made for them."""
    missing = [file for file in source.files if not (folder / file).exists()]
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    places = dict.fromkeys(map(source.place_of, missing))
    files = {place: ", ".join(repr(file) for file in missing if source.place_of(file) == place) for place in places}
    where = "; and ".join(f"{names} from {place}" for place, names in files.items())
    msg = (
        f"The files of {name!r} have no address that a program can download from. Download with a browser {where}. Put "
        f"what you get into {str(folder)!r} under these names, and sfm.load({name!r}) finds it; or pass the folder that "
        "has all of them."
    )
    raise FileNotFoundError(msg)


def _fetch_file(file: RemoteFile, target: Path, *, name: str) -> None:
    archive = target.with_name(f"{target.name}.tar.gz")
    arrives = archive if file.archive else target
    if not arrives.exists():
        _refuse_offline(file, arrives, name=name)
        arrives.parent.mkdir(parents=True, exist_ok=True)
        start = logg.info(f"downloading {file.url!r}")
        download(file, arrives)
        logg.info("    finished", time=start, deep=f"written to {str(arrives)!r}")
    if file.archive:
        try:
            unpack(archive, target)
        except ValueError:
            archive.unlink()  # or the next call would find it again
            raise
        archive.unlink()


def _refuse_offline(file: RemoteFile, target: Path, *, name: str) -> None:
    if not is_offline():
        return
    msg = (
        f"{name!r} needs {target.name!r}, and HF_HUB_OFFLINE forbids downloading it. Unset HF_HUB_OFFLINE, or download "
        f"{file.url} on another machine and put it at {str(target)!r}."
    )
    raise FileNotFoundError(msg)


def _link(source: Path, target: Path) -> None:
    """Give a file or folder a second name, or copy it where the disk has no hard links."""
    temporary = target.with_name(f".{target.name}.new")
    if source.is_dir():
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(source, temporary, copy_function=_link_file)
    else:
        temporary.unlink(missing_ok=True)
        _link_file(source, temporary)
    temporary.rename(target)


def _link_file(source: Path | str, target: Path | str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
