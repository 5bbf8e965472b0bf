"""Files of a token cache: arrays that grow while they are written, and a description of them."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FORMAT = "sfm-token-cache"
VERSION = 1
DESCRIPTION = "cache.json"
VOCABULARY = "vocabulary.json"
INPUT_IDS, INDPTR, VALUES, COLUMNS = "input_ids.npy", "indptr.npy", "values.npy", "columns"


class GrowingArray:
    """A one-dimensional array in a `.npy` file, written part by part, and complete when its context ends.

    Parameters
    ----------
    path
        File to write.
    dtype
        Type of the values.
    """

    def __init__(self, path: Path, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)
        self.size = 0
        self._file = path.open("xb")
        self._write_header()
        self._start = self._file.tell()

    def append(self, values: np.ndarray) -> None:
        """Add values at the end."""
        self._file.write(np.ascontiguousarray(values, dtype=self.dtype).data)
        self.size += values.size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        with self._file:
            if kind is None:
                self._finish()

    def _finish(self) -> None:
        """Write down how long the array has become; numpy leaves room for that in the header."""
        self._file.seek(0)
        self._write_header()
        if self._file.tell() != self._start:
            msg = f"The header of an array of {self.size} values does not fit where that of an empty one stood."
            raise OSError(msg)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _write_header(self) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.size,)}
        np.lib.format.write_array_header_1_0(self._file, header)


@contextmanager
def replaced_when_complete(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a new directory beside `path`, which takes its place if the block ends without an error.

    Raises
    ------
    FileExistsError
        If there is something at `path` already, and `overwrite` is not set or it is no token cache.
    """
    _refuse_existing(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}-{uuid4().hex}.partial")
    partial.mkdir()
    try:
        yield partial
        if path.exists():
            _refuse_existing(path, overwrite=overwrite)
            outdated = partial.with_suffix(".outdated")
            path.rename(outdated)
            partial.rename(path)
            shutil.rmtree(outdated)
        else:
            partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _refuse_existing(path: Path, *, overwrite: bool) -> None:
    if not path.exists():
        return
    if not overwrite:
        msg = f"There is something at {str(path)!r} already. Pass overwrite=True to replace a token cache."
        raise FileExistsError(msg)
    if not (path / DESCRIPTION).exists():
        msg = f"{str(path)!r} is no token cache and is not replaced. Choose another path."
        raise FileExistsError(msg)


def write_description(directory: Path, fields: dict[str, Any]) -> None:
    """Write the description, which marks the directory as complete."""
    fields = {"format": FORMAT, "version": VERSION, **fields}
    (directory / DESCRIPTION).write_text(json.dumps(fields, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_description(directory: Path) -> dict[str, Any]:
    """Read the description.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is not that of a token cache, or one of a newer sfm.
    """
    path = directory / DESCRIPTION
    if not path.is_file():
        msg = f"{str(directory)!r} is no token cache: it has no {DESCRIPTION!r}. `TokenCache.write` makes one."
        raise FileNotFoundError(msg)
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{str(path)!r} is damaged: it is not JSON ({error}). Write the token cache again."
        raise ValueError(msg) from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        msg = f"{str(directory)!r} is no token cache: {DESCRIPTION!r} describes something else. Choose another path."
        raise ValueError(msg)
    if fields.get("version") != VERSION:
        msg = (
            f"{str(directory)!r} has version {fields.get('version')!r} of the token cache format; this sfm reads version "
            f"{VERSION}. Update sfm-tools, or write the cache again."
        )
        raise ValueError(msg)
    return fields


def open_array(path: Path, *, size: int, kinds: str) -> np.ndarray:
    """Map an array into memory without reading it.

    Raises
    ------
    ValueError
        If the file is missing, cut short, or not what it must be.
    """
    if size == 0 and path.is_file():  # nothing to map
        return np.empty(0, dtype=np.float32 if kinds == "f" else np.int32)
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        msg = f"{str(path)!r} is missing or cut short ({error}). Write the token cache again."
        raise ValueError(msg) from error
    if array.shape != (size,) or array.dtype.kind not in kinds:
        msg = (
            f"{str(path)!r} holds {array.dtype.name} of shape {array.shape!r}, but the description says {size} values. "
            "Write the token cache again."
        )
        raise ValueError(msg)
    return np.asarray(array)  # indexing the subclass takes longer
