"""The one place that writes to the terminal."""

from __future__ import annotations

import sys
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def show(text: str) -> None:
    """Write results to standard output."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def tell(text: str) -> None:
    """Write anything else to standard error."""
    sys.stderr.write(f"sfm: {text}\n")


def message_of(error: BaseException) -> str:
    """Return the message of an error on one line."""
    # A KeyError shows its message in quotes.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split()) or type(error).__name__


@contextmanager
def short_warnings(worded: Callable[[str], str]) -> Iterator[None]:
    """Write warnings as one line each, in the words of the command line, without the line of code they point at."""

    def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
        tell(f"warning: {worded(' '.join(str(message).split()))}")

    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        yield


@contextmanager
def verbosity(level: int | None) -> Iterator[None]:
    """Set scanpy's verbosity; `None` leaves it alone, and scanpy out."""
    if level is None:
        yield
        return
    import scanpy as sc

    before = sc.settings.verbosity
    sc.settings.verbosity = level
    try:
        yield
    finally:
        sc.settings.verbosity = before
