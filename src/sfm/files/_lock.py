"""One writer at a time."""

from __future__ import annotations

import json
import os
import socket
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LOCK, _WRITER = "lock", "writer.json"


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder of parts, made if missing, and removed afterwards if it is empty.

    The lock is the kernel's, so that it goes with its process, however that ends.
    """
    lock = _acquire(folder)
    try:
        writer = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        }
        (folder / _WRITER).write_text(json.dumps(writer))
        yield
    finally:
        (folder / _WRITER).unlink(missing_ok=True)
        if [path.name for path in folder.iterdir()] == [_LOCK]:
            (folder / _LOCK).unlink()
            with suppress(OSError):  # somebody else began to write meanwhile
                folder.rmdir()
        lock.release()


def _acquire(folder: Path) -> FileLock:
    while True:
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            msg = f"Cannot write into {str(folder.parent)!r} ({error}). Pass out= with a name in a folder of your own."
            raise PermissionError(msg) from error
        lock = FileLock(folder / _LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            msg = (
                f"{str(folder)!r} is being written by {_holder(folder)}. Wait until that has ended (what it has finished "
                "is not lost if you end it), or pass another out=."
            )
            raise BlockingIOError(msg) from error
        except FileNotFoundError:
            continue  # the writer before has just removed the folder
        # A lock on a file that was removed meanwhile holds nobody off.
        if (folder / _LOCK).exists():
            return lock
        lock.release()


def _holder(folder: Path) -> str:
    try:
        writer = json.loads((folder / _WRITER).read_text())
        return f"process {writer['pid']} on host {writer['host']!r} since {writer['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"
