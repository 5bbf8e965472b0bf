"""Reading pickles without running anything that is in them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sfm.checkpoints._stand_in import refuse_stand_in
from sfm.checkpoints._unpickled_arrays import NUMPY_GLOBALS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

# What a truncated or garbled pickle makes the unpickler raise.
_DAMAGE = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)
_PROTOCOL = b"\x80"  # how pickles of protocol 2 and newer begin
_KNOWN_STARTS = {
    b"PK\x03\x04": "a zip archive, such as torch writes",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "compressed with gzip",
    b"{": "text, perhaps JSON",
}


class ForbiddenGlobalError(pickle.UnpicklingError):
    """A pickle names a function or class that it has no need of."""


class Record:
    """Stands for an object of a class that was not loaded: its attributes, and nothing that can be run."""

    origin = ""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Record:
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.__dict__.update(part)


class RestrictedUnpickler(pickle.Unpickler):
    """Unpickler that never imports, and calls nothing but what it is given.

    Parameters
    ----------
    file
        Open binary file.
    admitted
        What stands for a global of the pickle, by module and name. Classes are used as they are, functions are called.
    inert
        Top-level packages whose classes all become a :class:`Record`.
    """

    def __init__(
        self, file: BinaryIO, *, admitted: Mapping[tuple[str, str], Callable[..., Any]], inert: Collection[str] = ()
    ) -> None:
        super().__init__(file)
        self.admitted = admitted
        self.inert = frozenset(inert)

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a global."""
        replacement = self.admitted.get((module, name))
        if isinstance(replacement, type):
            return replacement
        if replacement is not None:
            # A pickle can set attributes of what it is handed: it gets a function of its own.
            return lambda *args: replacement(*args)
        if module.partition(".")[0] in self.inert:
            return type(name.rpartition(".")[2], (Record,), {"origin": f"{module}.{name}"})
        named = f"{module}.{name}"
        raise ForbiddenGlobalError(named)

    def persistent_load(self, pid: Any) -> Any:
        """Refuse references to other files."""
        msg = f"it refers to something outside the file ({pid!r})"
        raise pickle.UnpicklingError(msg)


def read_pickle(
    path: str | Path,
    *,
    what: str,
    admitted: Mapping[tuple[str, str], Callable[..., Any]] | None = None,
    inert: Collection[str] = (),
) -> Any:
    """Read a pickle of plain Python objects and numpy arrays; nothing in it is executed.

    Parameters
    ----------
    path
        File to read.
    what
        What the file ought to be, for messages, such as `"a CellTypist model"`.
    admitted
        What stands for further globals, see :class:`RestrictedUnpickler`.
    inert
        Packages whose classes become records.

    Returns
    -------
    The object; arrays are of a subclass of :class:`numpy.ndarray`, so pass them through :func:`numpy.asarray`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no pickle, is damaged, or names a function or class that is neither admitted nor inert.
    """
    path = Path(path)
    with path.open("rb") as file:
        _refuse_other_files(file.read(4), path, what)
        file.seek(0)
        try:
            return RestrictedUnpickler(file, admitted={**NUMPY_GLOBALS, **(admitted or {})}, inert=inert).load()
        except ForbiddenGlobalError as error:
            msg = (
                f"{str(path)!r} is not {what}: it is a pickle that names {str(error)!r}, which {what} has no need of. "
                f"That was not executed, and nothing was loaded. If it should be {what}, do not trust the file: get it "
                "again from its authors. If it is something else, open it with the program that wrote it."
            )
            raise ValueError(msg) from None
        except _DAMAGE as error:
            msg = (
                f"{str(path)!r} cannot be read as {what}: {type(error).__name__}: {error}. "
                "It may be truncated: download or save it again."
            )
            raise ValueError(msg) from error


def _refuse_other_files(start: bytes, path: Path, what: str) -> None:
    if not start:
        msg = f"{str(path)!r} is empty, not {what}. Download or save it again."
        raise ValueError(msg)
    if start[:1] != _PROTOCOL:
        refuse_stand_in(path, what=what, kind="pickle", any_text=False)
        kind = next((kind for magic, kind in _KNOWN_STARTS.items() if start.startswith(magic)), "no pickle")
        msg = f"{str(path)!r} is {kind}, not {what}, which is a pickle. Pass the file that was saved as such."
        raise ValueError(msg)
