"""Downloading one file: continued where it was left, checked, and in place only when it is whole."""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from sfm import _logging as logg

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.client import HTTPResponse
    from pathlib import Path

    from sfm.checkpoints._sources import RemoteFile

_CHUNK = 2**20
_TIMEOUT = 30.0  # seconds without a byte
_OK, _PARTIAL, _NOT_FOUND, _GONE, _RANGE_NOT_SATISFIABLE = 200, 206, 404, 410, 416
_MD5 = partial(hashlib.md5, usedforsecurity=False)
_BROKEN = (HTTPException, ConnectionError, TimeoutError)


def download(file: RemoteFile, target: Path) -> None:
    """Download a file, continuing what is there of it in `target` with `.part` appended.

    Parameters
    ----------
    file
        Where it is, and what it must be.
    target
        Where it goes once it is whole.

    Raises
    ------
    FileNotFoundError
        If the server does not have it.
    ConnectionError
        If there is no connection, or it breaks again before another byte has come.
    OSError
        If the disk is full.
    ValueError
        If the file is not the one that it must be.
    """
    part = target.with_name(f"{target.name}.part")
    with _failure_named(file, target):
        had = _length(part)
        while problem := _receive(file.url, part):
            if _length(part) <= had:
                raise ConnectionError(problem)
            had = _length(part)
            logg.hint(f"{problem}, so the rest of {file.url!r} is asked for")
    try:
        _check(file, part)
    except ValueError:
        part.unlink()  # or the next call would continue it
        raise
    finally:
        _validator_of(part).unlink(missing_ok=True)
    part.replace(target)


def _receive(url: str, part: Path) -> str | None:
    """Append what is still missing of a file; return what went wrong, `None` if it is whole."""
    headers = {"User-Agent": "sfm", "Accept-Encoding": "identity"}
    if _length(part) and _validator_of(part).exists():
        # The rest only if the file is still the same; all of it otherwise.
        headers |= {"Range": f"bytes={_length(part)}-", "If-Range": _validator_of(part).read_text()}
    try:
        with urlopen(Request(url, headers=headers), timeout=_TIMEOUT) as response:
            return _append(response, part)
    except HTTPError as error:
        if error.code == _RANGE_NOT_SATISFIABLE and error.headers["Content-Range"] == f"bytes */{_length(part)}":
            return None
        raise
    except _BROKEN as error:
        return f"the connection broke after {_length(part):,} bytes ({type(error).__name__})"


def _append(response: HTTPResponse, part: Path) -> str | None:
    from tqdm.auto import tqdm

    start = _length(part) if response.status == _PARTIAL else 0
    if response.status not in (_OK, _PARTIAL) or (start and _first_byte(response) != start):
        return f"the server answered {response.status} ({response.reason}) instead of with the file"
    if start == 0:
        _remember_version(response, part)
    length = response.headers["Content-Length"]
    total = None if length is None else start + int(length)
    if total is not None and total - start > shutil.disk_usage(part.parent).free:
        msg = f"{total - start:,} bytes do not fit on the disk of {str(part.parent)!r}"
        raise OSError(errno.ENOSPC, msg)
    with (
        part.open("ab" if start else "wb") as out,
        tqdm(
            desc=part.name.removesuffix(".part"),
            initial=start,
            total=total,
            unit="B",
            unit_scale=True,
            disable=not logg.show_progress(),
        ) as bar,
    ):
        while chunk := response.read(_CHUNK):
            out.write(chunk)
            bar.update(len(chunk))
    # A connection that is closed early looks like the end of the file.
    if total is not None and _length(part) < total:
        return f"the file ended after {_length(part):,} of {total:,} bytes"
    return None


def _first_byte(response: HTTPResponse) -> int | None:
    found = re.match(r"bytes (\d+)-", response.headers["Content-Range"] or "")
    return int(found[1]) if found else None


def _remember_version(response: HTTPResponse, part: Path) -> None:
    etag = response.headers["ETag"]
    version = response.headers["Last-Modified"] if etag is None or etag.startswith("W/") else etag
    if version is None:
        _validator_of(part).unlink(missing_ok=True)
    else:
        _validator_of(part).write_text(version)


def _check(file: RemoteFile, part: Path) -> None:
    if file.size is not None and _length(part) != file.size:
        msg = (
            f"{file.url!r} has {_length(part):,} bytes, but {file.path!r} must have {file.size:,}. It was changed by its "
            "authors, or another file came in its place; nothing was kept."
        )
        raise ValueError(msg)
    for name, make, expected in (("SHA-256", hashlib.sha256, file.sha256), ("MD5", _MD5, file.md5)):
        if expected is None:
            continue
        with part.open("rb") as content:
            found = hashlib.file_digest(content, make).hexdigest()
        if found != expected:
            msg = (
                f"{file.url!r} has the {name} {found}, but {file.path!r} must have {expected}. It was damaged on the way, or "
                "changed by its authors; nothing was kept. Try again."
            )
            raise ValueError(msg)


@contextmanager
def _failure_named(file: RemoteFile, target: Path) -> Iterator[None]:
    remedy = f"What has come so far is kept: try again, or download it by other means and put it at {str(target)!r}."
    try:
        yield
    except HTTPError as error:
        msg = f"{file.url!r} answered {error.code} ({error.reason}). {remedy}"
        if error.code in (_NOT_FOUND, _GONE):
            raise FileNotFoundError(msg) from error
        raise ConnectionError(msg) from error
    except (URLError, ConnectionError) as error:
        why = error.reason if isinstance(error, URLError) else error
        msg = f"Could not download {file.url!r}: {why}. {remedy}"
        raise ConnectionError(msg) from error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        msg = f"Could not download {file.url!r}: {error.strerror}. Make room, or set SFM_CACHE to a folder elsewhere."
        raise OSError(errno.ENOSPC, msg) from error


def _validator_of(part: Path) -> Path:
    """File with the version that a part is of."""
    return part.with_suffix(".version")


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
