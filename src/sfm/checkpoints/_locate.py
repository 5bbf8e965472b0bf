"""From a name, a path or a hub id to the directory that holds the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfm.checkpoints._archive import SUFFIXES, is_archive, unpacked
from sfm.checkpoints._cache import model_folder
from sfm.checkpoints._catalogue import OWN, bundled_path, known_entries
from sfm.checkpoints._family import FAMILIES
from sfm.checkpoints._fetch import beside, fetch, require
from sfm.checkpoints._files import PICKLES
from sfm.checkpoints._hub import fetch_from_hub, fetch_repository, parse_hub_id
from sfm.checkpoints._published import all_patterns
from sfm.checkpoints._sources import BundledSource, HubSource, ManualSource, UrlSource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sfm.checkpoints._sources import CatalogueEntry


@dataclass(frozen=True)
class Located:
    """Directory of a model, with what is known of it."""

    directory: Path
    revision: str | None = None
    """Commit of a hub model."""
    family: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of :func:`sfm.load` that it needs, unless they are given."""


def locate(name_or_path: str | Path, *, revision: str | None = None, family: str | None = None) -> Located:
    """Find the directory of a model, after downloading or unpacking it if that is needed.

    Parameters
    ----------
    name_or_path, revision, family
        As in :func:`sfm.load`.

    Raises
    ------
    FileNotFoundError, ConnectionError, OSError
        If files cannot be had.
    ValueError
        If the name is not known, or a file is damaged or no model.
    """
    entry = known_entries().get(str(name_or_path)) if isinstance(name_or_path, str) else None
    if entry is not None:
        return _fetch_entry(entry, revision=revision)
    path = Path(name_or_path).expanduser()
    if path.exists() and revision is not None:
        raise _no_revisions(name_or_path, revision)
    if path.is_dir():
        return Located(path)
    if path.is_file():
        return Located(unpacked(path) if is_archive(path) else _refuse_file(path))
    hub_id = parse_hub_id(name_or_path) if isinstance(name_or_path, str) and not is_archive(path) else None
    if hub_id is not None:
        return _fetch_hub_id(*hub_id, revision=revision, family=family)
    raise _unknown(name_or_path)


def _fetch_entry(entry: CatalogueEntry, *, revision: str | None) -> Located:
    source, family = entry.source, None if entry.family == OWN else entry.family
    match source:
        case HubSource():
            directory, commit = fetch_from_hub(source, revision=revision)
            if source.companions:
                folder = model_folder(entry.name)
                directory = beside(directory, source.companions, folder, name=entry.name, revision=commit)
            return Located(directory, commit, family, entry.options)
        case _ if revision is not None:
            raise _no_revisions(entry.name, revision)
        case BundledSource():
            return Located(bundled_path(entry.name))
        case UrlSource():
            fetch(source, model_folder(entry.name), name=entry.name, others=_relatives(entry))
        case ManualSource():
            require(source, model_folder(entry.name), name=entry.name)
    return Located(_top(model_folder(entry.name), source), family=family, options=entry.options)


def _relatives(entry: CatalogueEntry) -> list[Path]:
    """Folders of the other models of a family, which share files with it under the same names."""
    return [
        model_folder(other.name)
        for other in known_entries().values()
        if other.family == entry.family and other.name != entry.name
    ]


def _top(folder: Path, source: UrlSource | ManualSource) -> Path:
    """Folder of the model in that of its files: an archive may be the whole model."""
    only = source.files[0] if len(source.files) == 1 else None
    return folder if only is None or isinstance(only, str) or not only.archive else folder / only.path


def _fetch_hub_id(repo: str, folder: str, *, revision: str | None, family: str | None) -> Located:
    on_hub = {e.name: e for e in known_entries().values() if isinstance(e.source, HubSource) and e.source.repo == repo}
    for entry in on_hub.values():
        if isinstance(entry.source, HubSource) and (entry.source.subfolder, entry.source.revision) == (folder, None):
            return _fetch_entry(entry, revision=revision)
    patterns = all_patterns() if family is None else FAMILIES.load(family).patterns
    names = f" Its models have names: {', '.join(map(repr, on_hub))}." if on_hub else ""
    return Located(*fetch_repository(repo, folder, patterns=patterns, revision=revision, hint=names))


def _refuse_file(path: Path) -> Path:
    kind = "a pickle" if path.suffix in PICKLES else "a single file"
    msg = (
        f"{str(path)!r} is {kind}, not a model directory. Pass the directory that `save_pretrained` wrote or that a "
        f"published model came in, or an archive of it ({', '.join(SUFFIXES)})."
    )
    raise ValueError(msg)


def _no_revisions(name_or_path: str | Path, revision: str) -> ValueError:
    msg = f"revision={revision!r} is for models on the Hugging Face hub, but {str(name_or_path)!r} is not there. Leave it out."
    return ValueError(msg)


def _unknown(name_or_path: str | Path) -> Exception:
    if is_archive(Path(name_or_path)):
        msg = f"Did not find the archive {str(name_or_path)!r}. Check its path."
        return FileNotFoundError(msg)
    if _looks_like_path(name_or_path):
        path = Path(name_or_path).expanduser()
        msg = (
            f"Did not find the directory {str(name_or_path)!r} (looked for {str(path.absolute())!r}). Check its path, or "
            "pass a name from `sfm.list_models()` or a hub id ('org/name')."
        )
        return FileNotFoundError(msg)
    close = get_close_matches(str(name_or_path), known_entries(), n=3)
    meant = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    msg = (
        f"Unknown model {str(name_or_path)!r}.{meant} Pass a name from `sfm.list_models()`, a directory or an archive that "
        "is there, or a hub id ('org/name')."
    )
    return ValueError(msg)


def _looks_like_path(name_or_path: str | Path) -> bool:
    """Whether what is no hub id can only be meant as a path."""
    text = str(name_or_path)
    return isinstance(name_or_path, Path) or text.startswith((".", "~")) or "/" in text or "\\" in text
