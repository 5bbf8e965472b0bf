"""Directories in the layouts in which models were published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sfm import _logging as logg
from sfm.checkpoints._family import FAMILIES, Family

if TYPE_CHECKING:
    from pathlib import Path

    from sfm.checkpoints._pretrained import PretrainedCells


def families() -> list[Family]:
    """Return all known families."""
    return [FAMILIES.load(name) for name in FAMILIES.names()]


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
    ValueError
        If the family is not known, or the directory is one of another family.
    """
    wanted = None if name is None else FAMILIES.load(name)
    if wanted is not None and wanted.recognise(directory):
        return wanted
    found = next((family for family in families() if family.recognise(directory)), None)
    if wanted is not None:
        is_of = (
            "in no published layout" if found is None else f"a checkpoint of {found.title}: pass family={found.name!r}"
        )
        msg = f"{str(directory)!r} is not a checkpoint of {wanted.title}, but {is_of}."
        raise ValueError(msg)
    return found


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
