"""Log lines in scanpy's form, obeying scanpy's verbosity."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import TextIO

ERROR, WARNING, INFO, HINT = 0, 1, 2, 3


def _scanpy_settings() -> Any | None:
    # Read only when the user has imported scanpy: importing it for a log line would cost seconds.
    scanpy = sys.modules.get("scanpy")
    return getattr(scanpy, "settings", None)


def verbosity() -> int:
    """Return scanpy's verbosity as a number; 1 (warnings) where scanpy is not in use."""
    settings = _scanpy_settings()
    return WARNING if settings is None else int(settings.verbosity)


def _stream() -> TextIO:
    stream: TextIO | None = getattr(_scanpy_settings(), "logfile", None)
    return sys.stderr if stream is None else stream


def _write(level: int, msg: str, *, since: float | None, deep: str | None) -> float:
    now = time.perf_counter()
    if verbosity() >= level:
        if since is not None:
            msg = f"{msg} ({timedelta(seconds=round(now - since))})"
        if deep is not None and verbosity() >= HINT:
            msg = f"{msg}: {deep}"
        _stream().write(f"{msg}\n")
    return now


def info(msg: str, *, time: float | None = None, deep: str | None = None) -> float:
    """Log at verbosity 2; `deep` follows at verbosity 3. Returns the time, to be passed to the closing line."""
    return _write(INFO, msg, since=time, deep=deep)


def hint(msg: str) -> float:
    """Log at verbosity 3."""
    return _write(HINT, f"--> {msg}", since=None, deep=None)


def show_progress() -> bool:
    """Whether progress bars are wanted: from verbosity 1 (scanpy's default) upwards, never at 0."""
    return verbosity() > ERROR
