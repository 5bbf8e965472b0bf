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

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sfm.checkpoints._sources import ManualSource, RemoteFile, UrlSource


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


def require(source: ManualSource, folder: Path, *, name: str) -> None:
    """Raise unless the files of a model that has no direct address are in its folder."""
    missing = [file for file in source.files if not (folder / file).exists()]
    if not missing:
        return
    where = "; ".join(f"{file!r} from {source.page_of(file)}" for file in missing)
    msg = (
        f"{name!r} has no address that a program can download from. Download {where}, with a browser, and put "
        f"{'it' if len(missing) == 1 else 'them'} into {str(folder)!r} under {'this name' if len(missing) == 1 else 'these names'}; "
        f"then sfm.load({name!r}) finds {'it' if len(missing) == 1 else 'them'}. Or pass the folder that has them."
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
        unpack(archive, target)
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
