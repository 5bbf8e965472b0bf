from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfm.checkpoints._catalogue import CATALOGUE, DEFAULT_MODEL, bundled_path
from sfm.checkpoints._files import HUB_PATTERNS, PICKLES
from sfm.checkpoints._pretrained import PretrainedCells, read_pretrained
from sfm.protocols import ModelProtocol

if TYPE_CHECKING:
    from sfm.tokenizers import Tokenizer

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load(name_or_path: str | Path, *, revision: str | None = None, trust_pickle: bool = False) -> PretrainedCells:
    """Load a pretrained model with its tokenizer and vocabulary.

    Parameters
    ----------
    name_or_path
        A name from :func:`sfm.list_models`, a directory written by `save_pretrained`, or the id of one on the Hugging
        Face hub (`"org/name"`), which is downloaded once and then read from its cache.
    revision
        Branch, tag or commit of a hub model.
    trust_pickle
        Read weights that are stored as a pickle. A pickle can run any code, so do this only for files you would run.

    Returns
    -------
    The model in evaluation mode, in float32 on the CPU, with its tokenizer.

    Raises
    ------
    FileNotFoundError
        If a directory is not there, or is not a model directory.
    ValueError
        If the name is not known, a file is damaged, or weights do not fit or are a pickle.

    Examples
    --------
    >>> import sfm
    >>> sfm.load("sfm-mini").tokenizer.name
    'rank'
    """
    if isinstance(name_or_path, str) and name_or_path in {entry.name for entry in CATALOGUE}:
        return read_pretrained(bundled_path(name_or_path), name=name_or_path)
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return read_pretrained(path, name=str(name_or_path), trust_pickle=trust_pickle)
    if path.is_file():
        kind = "a pickle" if path.suffix in PICKLES else "a single file"
        msg = (
            f"{str(name_or_path)!r} is {kind}, not a model directory. Pass the directory that `save_pretrained` wrote."
        )
        raise ValueError(msg)
    if isinstance(name_or_path, str) and _HUB_ID.fullmatch(name_or_path):
        return _load_from_hub(name_or_path, revision=revision, trust_pickle=trust_pickle)
    known = ", ".join(repr(entry.name) for entry in CATALOGUE)
    msg = f"Unknown model {str(name_or_path)!r}. Pass one of {known}, a directory, or a hub id ('org/name')."
    raise ValueError(msg)


def _load_from_hub(repo_id: str, *, revision: str | None, trust_pickle: bool) -> PretrainedCells:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = HUB_PATTERNS + ["pytorch_model.bin"] * trust_pickle
    try:
        directory = Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        where = "" if revision is None else f" at revision {revision!r}"
        msg = (
            f"Could not fetch {repo_id!r}{where} from the Hugging Face hub ({type(error).__name__}), and it is no "
            "directory here. Check the spelling, the connection, and whether the model needs a login."
        )
        raise FileNotFoundError(msg) from error
    # The snapshot folder is named after the commit, whichever branch or tag was asked for.
    return read_pretrained(directory, name=repo_id, revision=directory.name, trust_pickle=trust_pickle)


def resolve_model(model: Any, *, tokenizer: Tokenizer | None = None) -> PretrainedCells:
    """Turn whatever `model=` may be into a model with its tokenizer."""
    if isinstance(model, PretrainedCells):
        return model
    if model is None or isinstance(model, str | Path):
        return load(DEFAULT_MODEL if model is None else model)
    if hasattr(model, "as_pretrained"):
        return model.as_pretrained()
    if not isinstance(model, ModelProtocol):
        msg = (
            f"model={model!r} of type {type(model).__name__} cannot embed cells. Pass a name, a directory, a hub id, "
            "the result of `sfm.load`, a trained sfm.model, or an object with `forward` and `encode` "
            "(sfm.ModelProtocol) together with tokenizer=."
        )
        raise TypeError(msg)
    if tokenizer is None:
        msg = f"A {type(model).__name__} does not say how its cells are tokenized. Pass its tokenizer= as well."
        raise ValueError(msg)
    return PretrainedCells(model, tokenizer, name=type(model).__name__)
