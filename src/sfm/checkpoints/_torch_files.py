"""Files that `torch.save` wrote, read without running anything that is in them."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import torch

from sfm.checkpoints._stand_in import refuse_stand_in

if TYPE_CHECKING:
    from pathlib import Path

# What torch raises for files that are damaged or none of its own.
_DAMAGE = (RuntimeError, EOFError, ValueError, KeyError, OSError, AttributeError, TypeError)


def read_torch_file(path: Path, *, what: str, trust_pickle: bool = False) -> Any:
    """Read tensors and plain Python objects; anything else in the file is refused.

    Parameters
    ----------
    path
        File to read.
    what
        What it ought to be, for messages, such as `"the weights of scGPT"`.
    trust_pickle
        Read it even if it holds other objects, which can run any code.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, something else in its place, or holds more than tensors and plain objects.
    """
    if not path.is_file():
        msg = f"Did not find {path.name!r} in {str(path.parent)!r}, which is {what}. Download it as well."
        raise FileNotFoundError(msg)
    try:
        return torch.load(path, map_location="cpu", weights_only=not trust_pickle)
    except pickle.UnpicklingError as error:
        refuse_stand_in(path, what=what, kind="torch file")
        if "weights_only" not in str(error).lower():
            raise _damaged(path, what, error) from error
        msg = (
            f"{str(path)!r} holds more than tensors and plain objects, and reading that could run any code; nothing was "
            f"executed or loaded. {what[:1].upper()}{what[1:]} should need no more: get the file from its authors, or "
            "pass trust_pickle=True to `sfm.load` if you trust its source."
        )
        raise ValueError(msg) from None
    except _DAMAGE as error:
        refuse_stand_in(path, what=what, kind="torch file")
        raise _damaged(path, what, error) from error


def _damaged(path: Path, what: str, error: Exception) -> ValueError:
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    msg = f"{str(path)!r} cannot be read as {what} ({first_line}). It may be truncated: download it again."
    return ValueError(msg)
