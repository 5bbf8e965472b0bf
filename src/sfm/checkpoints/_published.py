"""Directories in the layouts in which models were published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sfm import _logging as logg
from sfm.checkpoints._family import FAMILIES, Family, families, recognised
from sfm.checkpoints._unrecognised import not_of

if TYPE_CHECKING:
    from pathlib import Path

    from sfm.checkpoints._pretrained import PretrainedCells


def all_patterns() -> list[str]:
    """Return the glob patterns of the files that any family reads."""
    return sorted({pattern for family in families() for pattern in family.patterns})


def find_family(directory: Path, name: str | None = None) -> Family | None:
    """Return the family of a directory, `None` if it is in no published layout.

    Parameters
    ----------
    directory
        Where the files are.
    name
        Family that it ought to be.

    Raises
    ------
    FileNotFoundError
        If files are missing without which it is not of the family that it ought to be.
    ValueError
        If the family is not known, or the directory is one of another family.
    """
    if name is None:
        return recognised(directory)
    wanted: Family = FAMILIES.load(name)
    if not wanted.recognise(directory):
        raise not_of(wanted, directory)
    return wanted


def read_published(
    directory: Path,
    family: Family,
    *,
    name: str,
    revision: str | None = None,
    trust_pickle: bool = False,
    **options: Any,
) -> PretrainedCells:
    """Read a directory in the layout of a family.

    Parameters
    ----------
    directory
        Where the files are.
    family
        Their family.
    name, revision, trust_pickle, options
        As in :func:`sfm.load`.

    Raises
    ------
    TypeError
        If the family has no such option.
    """
    unknown = sorted(options.keys() - family.options.keys())
    if unknown:
        known = "; ".join(f"{key}: {what}" for key, what in family.options.items()) or "none"
        msg = f"{family.title} has no option {unknown[0]!r}. Its options: {known}."
        raise TypeError(msg)
    logg.hint(f"{str(directory)!r} is a checkpoint of {family.title}")
    return family.read(directory, name=name, revision=revision, trust_pickle=trust_pickle, **options)
