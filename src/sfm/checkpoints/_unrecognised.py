"""What to say of a directory that is no model: what it looks most like, and what is missing or where to look."""

from __future__ import annotations

from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from sfm.checkpoints._family import families, recognised
from sfm.checkpoints._files import CONFIG, TOKENIZER, VOCABULARY
from sfm.checkpoints._layout import compare
from sfm.checkpoints._pretrained import is_model_directory

if TYPE_CHECKING:
    from sfm.checkpoints._family import Family
    from sfm.checkpoints._layout import Comparison

# Files and folders on two levels that are looked at, and folders that are looked into.
_MOST_FILES = 5000
_MOST_FOLDERS = 100


def no_model(directory: Path, name: str) -> FileNotFoundError:
    """Return the error for a directory that is in no known layout, and how it was asked for."""
    found = sorted(path.name for path in directory.iterdir())
    wanted = "is not a model directory"
    hints = [hint for hint in (_where_inside(directory), _nearest(directory)) if hint]
    if not hints:
        own = [file for file in (CONFIG, VOCABULARY, TOKENIZER) if file not in found]
        wanted = f"{wanted}: {own!r} missing"
        hints = ["A model directory is written by `save_pretrained`, or in the layout of a published model."]
        if any(file.endswith("model.pt") for file in found):
            hints = ["It looks like one written by `save` of a model class: read it with the `load` of that class."]
    # An archive or a model of the hub is somewhere in a cache.
    source = "" if Path(name).expanduser() == directory else f", where {name!r} is,"
    msg = f"{str(directory)!r}{source} {wanted}, found {found[:5]!r}. {' '.join(hints)}"
    return FileNotFoundError(msg)


def not_of(family: Family, directory: Path) -> Exception:
    """Return the error for a directory that ought to be of a family and is not."""
    is_not = f"{str(directory)!r} is not a checkpoint of {family.title}"
    other = recognised(directory)
    if other is not None:
        return ValueError(f"{is_not}, but a checkpoint of {other.title}: pass family={other.name!r}.")
    if is_model_directory(directory):
        return ValueError(f"{is_not}, but written by `save_pretrained`: leave out family=.")
    like = _comparison(directory, family)
    inside = _where_inside(directory)
    if like is not None and like.is_other:
        file = next(file for file in like.found if file.decides)
        return ValueError(f"{is_not}: {file} is that of another model. {inside}".strip())
    if like is not None and like.missing:
        return FileNotFoundError(f"{is_not}: it lacks {_list(like)}. {inside or 'Download what is missing.'}")
    return ValueError(f"{is_not}, but in no published layout. {inside}".strip())


def _comparison(directory: Path, family: Family) -> Comparison | None:
    """Compare a directory with the layout of a family that it is most like."""
    found = [compare(directory, layout) for layout in family.layouts]
    return max(found, key=lambda comparison: comparison.likeness, default=None)


def _nearest(directory: Path) -> str:
    """Name the families that a directory is most like, if it has at least half of what they need."""
    compared = [(family, _comparison(directory, family)) for family in families()]
    likely = [
        (family, like)
        for family, like in compared
        if like is not None and like.found and like.missing and like.likeness >= 0 and not like.is_other
    ]
    if not likely:
        return ""
    best = max(like.likeness for _, like in likely)
    named = [f"of {family.title}, which also needs {_list(like)}" for family, like in likely if like.likeness == best]
    return f"It looks most like a checkpoint {'; or '.join(named)}. Download what is missing."


def _list(like: Comparison) -> str:
    *most, last = map(str, like.missing)
    return f"{', '.join(most)} and {last}" if most else last


def _where_inside(directory: Path) -> str:
    """Name the folders in a directory that are models."""
    paths = islice(chain(directory.glob("*"), directory.glob("*/*")), _MOST_FILES)
    folders = islice(filter(_is_folder, paths), _MOST_FOLDERS)
    models = [(folder, what) for folder in sorted(folders) if (what := _what_is(folder)) is not None]
    if not models:
        return ""
    named = ", ".join(f"{str(folder.relative_to(directory))!r} ({what})" for folder, what in models[:3])
    how = "Its folder" if len(models) == 1 else "Of its folders,"
    return f"{how} {named} {'is a model' if len(models) == 1 else 'are models'}: pass {str(models[0][0])!r}."


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # one that may not be looked into
        return False


def _what_is(folder: Path) -> str | None:
    """Say what model a folder holds; one with damaged files is for whoever asks for it."""
    try:
        if is_model_directory(folder):
            return "written by `save_pretrained`"
        family = recognised(folder)
    except (OSError, ValueError):
        return None
    return None if family is None else family.title
