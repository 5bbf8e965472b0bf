"""What reading and writing can fail of, in words that say what is kept."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sfm.files._paths import FilePaths


@contextmanager
def writing(paths: FilePaths) -> Iterator[None]:
    """Say what is kept when there is no room for more."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # HDF5 raises either
        msg = f"Could not write {str(paths.out)!r} ({_cause(error)}). {_kept(paths)}Make room, and run the same call again."
        raise OSError(msg) from error


@contextmanager
def reading(paths: FilePaths) -> Iterator[None]:
    """Say which file could not be read, and what is kept when cells are refused."""
    try:
        yield
    except ValueError as error:
        if not paths.any_finished():
            raise
        msg = f"{error} {_kept(paths)}Mend the file, and run the same call again."
        raise ValueError(msg) from error
    except (OSError, RuntimeError) as error:
        msg = (
            f"Could not read all cells of {str(paths.source)!r} ({_cause(error)}). {_kept(paths)}The file may be truncated "
            "or damaged: copy it again, and run the same call again."
        )
        raise OSError(msg) from error


def refuse_small_disk(paths: FilePaths, n_bytes: int) -> None:
    """Raise if it can be seen beforehand that the disk is too small."""
    free = shutil.disk_usage(paths.out.parent).free
    if free < n_bytes:
        msg = (
            f"{str(paths.out.parent)!r} has {free / 1e9:.1f} GB free, and {n_bytes / 1e9:.1f} GB more are needed for "
            f"{paths.out.name!r}. Make room, or pass out= on another disk."
        )
        raise OSError(msg)


def _kept(paths: FilePaths) -> str:
    if not paths.any_finished():
        return ""
    return f"What is finished is kept in {str(paths.parts)!r}, to go on from there. "


def _cause(error: BaseException) -> str:
    """The words of the system for an error that HDF5 hides among its own."""
    number = re.search(r"errno = (\d+)", str(error))
    if number is not None:
        return os.strerror(int(number[1]))
    return str(error).partition("\n")[0] or type(error).__name__
