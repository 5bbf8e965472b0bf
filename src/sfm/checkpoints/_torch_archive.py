"""Files that `torch.save` wrote whose objects are of many classes, read without importing or running any of them.

Such a file is a zip archive of one pickle and of the bytes of each tensor. Tensors are views of the mapped file, so that
a table of gigabytes takes no memory until it is copied.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sfm.checkpoints._torch_files import read_torch_file
from sfm.checkpoints._unpickled_arrays import NUMPY_GLOBALS
from sfm.checkpoints._unpickler import ForbiddenGlobalError, RestrictedUnpickler

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from torch import Tensor

# What damaged archives and pickles raise.
_DAMAGE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    OverflowError,
    RecursionError,
    RuntimeError,
    struct.error,
    TypeError,
    ValueError,
)
_HEADER = 30  # bytes of the header of a zip entry before its name


class StorageType:
    """Stands for a class of storages: the type of the numbers in it."""

    dtype: torch.dtype


_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    if not isinstance(storage, torch.Tensor) or min((offset, *size, *stride), default=0) < 0:
        msg = "it holds a tensor that is no part of the file"
        raise pickle.UnpicklingError(msg)
    return storage.as_strided(size, stride, offset)  # refuses what reaches beyond the storage


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _plain_dict(*_: Any) -> dict[Any, Any]:
    return {}


_ADMITTED: dict[tuple[str, str], Any] = {
    **NUMPY_GLOBALS,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): _plain_dict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("__builtin__", kind.__name__): kind for kind in (bool, dict, float, int, list, set, tuple)},
    ("__builtin__", "long"): int,
    ("__builtin__", "unicode"): str,
}


class _ArchiveUnpickler(RestrictedUnpickler):
    """Unpickler whose storages are those of an archive."""

    def __init__(self, archive: _Archive, inert: Collection[str]) -> None:
        # Made anew for each file: a pickle can set attributes of the classes that it is handed.
        storages = {("torch", name): type(name, (StorageType,), {"dtype": dtype}) for name, dtype in _STORAGES.items()}
        super().__init__(io.BytesIO(archive.read("data.pkl")), admitted={**_ADMITTED, **storages}, inert=inert)
        self.archive = archive

    def persistent_load(self, pid: Any) -> Tensor:
        """Return all numbers of a storage, one after the other."""
        kind, storage_type, key, _, length = pid
        if kind != "storage" or not (isinstance(storage_type, type) and issubclass(storage_type, StorageType)):
            msg = f"it refers to something that is no tensor ({kind!r})"
            raise pickle.UnpicklingError(msg)
        return self.archive.storage(str(key), storage_type.dtype, int(length))


class _Archive:
    """An open archive, and its bytes."""

    def __init__(self, path: Path) -> None:
        self.zip = zipfile.ZipFile(path)
        # A plain array, whose slices are made faster than those of a memmap.
        self.mapped = np.asarray(np.memmap(path, mode="c", dtype=np.uint8))
        self.buffer = self.mapped.data
        pickles = [name for name in self.zip.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            msg = "it is a zip archive, but not one of torch"
            raise zipfile.BadZipFile(msg)
        self.root = pickles[0].removesuffix("data.pkl")
        self.storages: dict[str, Tensor] = {}
        if f"{self.root}byteorder" in self.zip.namelist() and self.read("byteorder") != b"little":
            msg = "its numbers are not little-endian"
            raise zipfile.BadZipFile(msg)

    def read(self, name: str) -> bytes:
        """Return an entry."""
        return self.bytes_of(name).tobytes()

    def bytes_of(self, name: str) -> np.ndarray:
        """Return the part of the mapped file that is an entry."""
        entry = self.zip.getinfo(self.root + name)
        start = entry.header_offset
        # Lengths of name and extra field, which torch pads so that numbers are aligned.
        start += _HEADER + sum(struct.unpack_from("<HH", self.buffer, start + _HEADER - 4))
        content: np.ndarray = self.mapped[start : start + entry.file_size]
        if entry.compress_type != zipfile.ZIP_STORED or content.size != entry.file_size:
            msg = f"its part {name!r} is compressed or cut off"
            raise zipfile.BadZipFile(msg)
        return content

    def storage(self, key: str, dtype: torch.dtype, length: int) -> Tensor:
        """Return the numbers of a storage, of shape `(length,)`."""
        if key not in self.storages:
            content = self.bytes_of(f"data/{key}")
            if content.ctypes.data % dtype.itemsize:
                content = content.copy()
            self.storages[key] = torch.from_numpy(content) if content.size else torch.empty(0, dtype=torch.uint8)
        numbers = self.storages[key].view(dtype)
        if math.prod(numbers.shape) < length:
            msg = f"its part 'data/{key}' has fewer than {length} numbers"
            raise zipfile.BadZipFile(msg)
        return numbers


def read_torch_archive(path: Path, *, what: str, inert: Collection[str] = (), trust_pickle: bool = False) -> Any:
    """Read tensors, plain Python objects, and as records without behaviour the objects of some packages.

    Parameters
    ----------
    path
        File to read. One that is no zip archive, as old versions of torch wrote, may hold no more than
        :func:`~sfm.checkpoints._torch_files.read_torch_file` takes.
    what
        What it ought to be, for messages, such as `"the weights of UCE"`.
    inert
        Top-level packages whose classes become records, see
        :class:`~sfm.checkpoints._unpickler.RestrictedUnpickler`. They are not imported.
    trust_pickle
        Read the file by torch if it holds other objects, which can run any code.

    Returns
    -------
    What was saved. Tensors are on the CPU, without gradient, and views of the file: changes stay in memory.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, or names a function or class that is neither needed nor inert.
    """
    if not path.is_file() or not _is_zip(path):
        return read_torch_file(path, what=what, trust_pickle=trust_pickle)
    try:
        archive = _Archive(path)
        with archive.zip:
            return _ArchiveUnpickler(archive, inert).load()
    except ForbiddenGlobalError as error:
        if trust_pickle:
            return read_torch_file(path, what=what, trust_pickle=True)
        msg = (
            f"{str(path)!r} names {str(error)!r}, which {what} has no need of and which could run any code; nothing was "
            "executed or loaded. Get the file from its authors, or pass trust_pickle=True to `sfm.load` if you trust "
            "its source."
        )
        raise ValueError(msg) from None
    except _DAMAGE as error:
        msg = (
            f"{str(path)!r} cannot be read as {what} ({type(error).__name__}: {error}). It may be truncated: download it "
            "again."
        )
        raise ValueError(msg) from error


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"
