"""Stand-ins for the few functions of numpy that pickled arrays name.

numpy's own would take any dtype, and the state of a dtype can be forged so that bytes are taken for object pointers.
These make plain numbers, text and arrays of Python objects only.
"""

from __future__ import annotations

import math
import pickle
import re
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

# Booleans, integers, floats, complex numbers, bytes, text, and objects.
_PLAIN = re.compile(r"[?bhilqBHILQefdgFDGO]|[biufcOSUa]\d{1,9}")


class PickledDType:
    """A plain dtype, made from its code and byte order."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any = None, *_flags: Any) -> None:
        if not (isinstance(code, str) and _PLAIN.fullmatch(code)):
            msg = f"it holds an array of dtype {code!r}, which is not read from pickles"
            raise pickle.UnpicklingError(msg)
        self.dtype: np.dtype[Any] = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        _, byte_order, *parts = state  # then sub-dtype, names and fields, which plain dtypes lack
        if byte_order not in ("<", ">", "=", "|") or any(part is not None for part in parts[:3]):
            msg = "it holds an array of a structured dtype, which is not read from pickles"
            raise pickle.UnpicklingError(msg)
        if byte_order in "<>":
            self.dtype = self.dtype.newbyteorder(byte_order)


class PickledArray(np.ndarray[Any, Any]):
    """An array whose state is checked before it is set."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> PickledArray:
        # numpy's own takes a buffer, which might be read as object pointers.
        msg = "it makes an array in a way that pickles of numpy do not"
        raise pickle.UnpicklingError(msg)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, values = state
        checked = _plain_dtype(dtype)
        _refuse_other_size(values, _size(shape), checked)
        super().__setstate__((1, shape, checked, bool(is_fortran), values))  # type: ignore[arg-type]


def _plain_dtype(dtype: Any) -> np.dtype[Any]:
    if isinstance(dtype, PickledDType):
        return dtype.dtype
    msg = f"it holds an array with a {type(dtype).__name__} for a dtype"
    raise pickle.UnpicklingError(msg)


def _size(shape: Any) -> int:
    if isinstance(shape, tuple) and all(type(length) is int and length >= 0 for length in shape):
        return math.prod(shape)
    msg = f"it holds an array of shape {shape!r}"
    raise pickle.UnpicklingError(msg)


def _refuse_other_size(values: Any, size: int, dtype: np.dtype[Any]) -> None:
    """Raise unless the values are a list of that many objects, or bytes for that many numbers."""
    if dtype.hasobject:
        fits = isinstance(values, list) and len(values) == size
    else:
        fits = isinstance(values, bytes | bytearray) and len(values) == size * dtype.itemsize
    if not fits:
        msg = f"the values of an array of {size} {dtype} are not of that size"
        raise pickle.UnpicklingError(msg)


def _reconstruct(kind: Any, *_: Any) -> PickledArray:
    if kind is not PickledArray:
        msg = "it holds an array of a special kind, which is not read from pickles"
        raise pickle.UnpicklingError(msg)
    return np.empty(0, dtype=np.int8).view(PickledArray).copy()


def _scalar(dtype: Any, values: Any = None) -> Any:
    checked = _plain_dtype(dtype)
    if checked.hasobject:
        msg = "it holds a scalar of dtype object, which is not read from pickles"
        raise pickle.UnpicklingError(msg)
    _refuse_other_size(values, 1, checked)
    return np.frombuffer(values, dtype=checked)[0]


def _from_buffer(values: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    checked = _plain_dtype(dtype)
    _refuse_other_size(values, _size(shape), checked)
    return np.frombuffer(values, dtype=checked).reshape(shape, order=order)


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        msg = f"it encodes text as {encoding!r}"
        raise pickle.UnpicklingError(msg)
    return text.encode("latin1")


_NUMPY: dict[tuple[str, str], Callable[..., Any]] = {
    ("multiarray", "_reconstruct"): _reconstruct,
    ("multiarray", "scalar"): _scalar,
    ("numeric", "_frombuffer"): _from_buffer,
}
#: What stands for the globals of pickled arrays, of numpy 1 (`numpy.core`) and 2 (`numpy._core`).
NUMPY_GLOBALS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): PickledDType,
    # Bytes in protocol 2, and none of them.
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): lambda: b"",
    **{(f"numpy.{core}.{module}", name): f for core in ("core", "_core") for (module, name), f in _NUMPY.items()},
}
