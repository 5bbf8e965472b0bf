"""What is sometimes found in place of a download: a git-lfs pointer, a web page, or other text."""

from __future__ import annotations

from codecs import getincrementaldecoder
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_LFS = "version https://git-lfs"
_LENGTH = 512
_SHOWN = 40


def refuse_stand_in(path: Path, *, what: str, kind: str, any_text: bool = True) -> None:
    """Raise if a file is text that stands in for something else.

    Parameters
    ----------
    path
        File to look at.
    what
        What it ought to be, such as `"the weights of UCE"`.
    kind
        Format that it ought to have, such as `"torch file"`.
    any_text
        Whether text other than pointers and web pages is refused as well.

    Raises
    ------
    ValueError
        If it is. The message says what was found, and how to get the file.
    """
    start = _text_at_start(path)
    if start is None:
        return
    shown = repr(start if len(start) <= _SHOWN else f"{start[:_SHOWN]}...")
    if start.startswith(_LFS):
        msg = (
            f"{str(path)!r} is no {kind} but a git-lfs pointer, a few lines of text that begin with {shown} and stand for "
            f"{what}. Run `git lfs pull` where it was cloned, or download the file itself."
        )
        raise ValueError(msg)
    if start.startswith("<"):
        msg = (
            f"{str(path)!r} is no {kind} but a web page, which begins with {shown}: the site may have asked something before "
            f"the download. Download {what} again."
        )
        raise ValueError(msg)
    if any_text:
        msg = f"{str(path)!r} is no {kind} but text, which begins with {shown}. Download {what} again."
        raise ValueError(msg)


def _text_at_start(path: Path) -> str | None:
    """Return the first line of a file of text, `None` if the file is something else or empty."""
    with path.open("rb") as file:
        content = file.read(_LENGTH)
    try:
        # Incremental, since the last character may be cut.
        text = getincrementaldecoder("utf-8-sig")().decode(content).lstrip()
    except UnicodeDecodeError:
        return None
    if not text or not all(one.isprintable() or one.isspace() for one in text):
        return None
    return text.splitlines()[0].rstrip()
