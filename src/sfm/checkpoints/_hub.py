"""Models on the Hugging Face hub: which of their files are fetched, and where they are then."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from sfm import _logging as logg
from sfm.checkpoints._cache import is_offline
from sfm.checkpoints._entries import CATALOGUE
from sfm.checkpoints._files import CONFIG, HUB_PATTERNS
from sfm.checkpoints._pretrained import is_model_directory
from sfm.checkpoints._sources import HubSource

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tqdm import tqdm

_PART = r"[\w-][\w.-]*"
_HUB_ID = re.compile(rf"({_PART}/{_PART})(?:/({_PART}(?:/{_PART})*))?")
#: Fetched only where there is nothing safer.
_PICKLED_WEIGHTS = "pytorch_model.bin"


def parse_hub_id(text: str) -> tuple[str, str] | None:
    """Split `"org/name"` or `"org/name/folder"` into repository and folder; `None` if it is neither."""
    found = _HUB_ID.fullmatch(text)
    return None if found is None else (found[1], (found[2] or "").rstrip("/"))


def fetch_from_hub(source: HubSource, *, revision: str | None = None) -> tuple[Path, str]:
    """Fetch the files of a model of the catalogue.

    Parameters
    ----------
    source
        Where they are.
    revision
        Branch, tag or commit, instead of that of the catalogue.

    Returns
    -------
    The folder of the model, and the commit.

    Raises
    ------
    FileNotFoundError
        If a file is neither there nor in the cache.
    """
    revision = revision or source.revision
    top = _snapshot(source.repo, source.files, revision=revision)
    missing = [file for file in source.files if "*" not in file and not (top / file).exists()]
    if missing:
        why = "HF_HUB_OFFLINE forbids downloading them: unset it" if is_offline() else "Pass another revision="
        msg = f"{source.repo!r}{_at(revision)} lacks {missing!r} in {str(top)!r}. {why}."
        raise FileNotFoundError(msg)
    return top / source.subfolder, top.name


def fetch_repository(
    repo: str, folder: str, *, patterns: Iterable[str], revision: str | None = None, hint: str = ""
) -> tuple[Path, str]:
    """Fetch what any family of models may read of a folder of a repository.

    Parameters
    ----------
    repo
        Its id.
    folder
        Folder of the model in it; empty for its top.
    patterns
        Glob patterns of the files that the families read.
    revision
        Branch, tag or commit.
    hint
        What to say if there is no model.

    Returns
    -------
    The folder of the model, and the commit.

    Raises
    ------
    FileNotFoundError
        If the repository or the folder is neither on the hub nor in the cache.
    """
    inside = f"{folder}/" if folder else ""
    wanted = {f"{inside}{pattern}" for pattern in HUB_PATTERNS}
    top = _snapshot(repo, wanted, revision=revision)
    if not is_model_directory(top / folder):
        # What the families read is more, and some of it large, so it is not asked for before.
        wanted |= {f"{inside}{pattern}" for pattern in patterns if pattern != _PICKLED_WEIGHTS} | _companions(
            repo, inside
        )
        top = _snapshot(repo, wanted, revision=revision)
    directory = top / folder
    if (directory / CONFIG).exists() and not any(directory.glob("*.safetensors")):
        top = _snapshot(repo, wanted | {f"{inside}{_PICKLED_WEIGHTS}"}, revision=revision)
    if not directory.is_dir() or not any(directory.iterdir()):
        where = f"in the folder {folder!r} of" if folder else "at the top of"
        msg = f"There are no files of a model that sfm can read {where} {repo!r}{_at(revision)}.{hint}"
        raise FileNotFoundError(msg)
    return directory, top.name


def _companions(repo: str, inside: str) -> set[str]:
    """Files that models of this repository need from other folders of it, as far as the catalogue knows."""
    sources = [entry.source for entry in CATALOGUE if isinstance(entry.source, HubSource) and entry.source.repo == repo]
    return {
        file
        for source in sources
        for file in source.files
        if source.subfolder and not file.startswith((f"{source.subfolder}/", inside or "\0"))
    }


def _snapshot(repo: str, patterns: Iterable[str], *, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    # What breaks on the way is named by httpx or by httpx2, whichever this version of the hub's client uses.
    broken: type[Exception] = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    try:
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=sorted(patterns),
                tqdm_class=None if logg.show_progress() else _no_bar(),
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        hint = (
            "HF_HUB_OFFLINE forbids downloads: unset it."
            if is_offline()
            else "Check the spelling, the connection, and whether the model needs a login."
        )
        msg = (
            f"Could not fetch {repo!r}{_at(revision)} from the Hugging Face hub ({type(error).__name__}), and it is no "
            f"directory here. {hint}"
        )
        raise FileNotFoundError(msg) from error
    except broken as error:
        msg = (
            f"The download of {repo!r}{_at(revision)} from the Hugging Face hub broke ({type(error).__name__}: {error}). "
            "Try again: files that have come are kept."
        )
        raise ConnectionError(msg) from error


def _no_bar() -> type[tqdm]:
    from huggingface_hub.utils.tqdm import tqdm as hub_tqdm

    class NoBar(hub_tqdm):  # type: ignore[misc, valid-type]
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **{**options, "disable": True})

    return NoBar


def _at(revision: str | None) -> str:
    return "" if revision is None else f" at revision {revision!r}"
