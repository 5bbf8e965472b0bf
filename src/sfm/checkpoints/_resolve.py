from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfm.checkpoints._catalogue import DEFAULT_MODEL
from sfm.checkpoints._licence import show_licence
from sfm.checkpoints._locate import locate
from sfm.checkpoints._pretrained import PretrainedCells, is_model_directory, read_pretrained
from sfm.checkpoints._published import find_family, read_published
from sfm.checkpoints._unrecognised import no_model
from sfm.protocols import ModelProtocol

if TYPE_CHECKING:
    from sfm.tokenizers import Tokenizer


def load(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    family: str | None = None,
    trust_pickle: bool = False,
    **options: Any,
) -> PretrainedCells:
    """Load a pretrained model with its tokenizer and vocabulary.

    Parameters
    ----------
    name_or_path
        A name from :func:`sfm.list_models`, a directory written by `save_pretrained` or in the layout in which a model
        was published, an archive of one (`.tar.gz`, `.zip`), or the id of one on the Hugging Face hub (`"org/name"`, or
        `"org/name/folder"` for one in a folder of a repository). Downloads are made once and then read from the cache of
        the hub; what is not on the hub is in `~/.cache/sfm`, or where the environment variable `SFM_CACHE` says. Nothing
        is downloaded while `HF_HUB_OFFLINE` is set.
    revision
        Branch, tag or commit of a hub model.
    family
        Family of a published model, such as `"geneformer"`. Default: what its files look like.
    trust_pickle
        Read weights that are stored as a pickle. A pickle can run any code, so do this only for files you would run.
    options
        Options of the family of a published model, which its page lists. All have `reference=True`, which reproduces the
        original implementation also where that is random or lets a cell's vector depend on its neighbours.

    Returns
    -------
    The model in evaluation mode, in float32 on the CPU, with its tokenizer.

    Raises
    ------
    FileNotFoundError
        If a directory is not there or is not a model directory, or files are missing that cannot be downloaded.
    TypeError
        If `name_or_path` is neither text nor a path, or an option means nothing to the model.
    ConnectionError
        If a download breaks; the next call continues it.
    ValueError
        If the name is not known, a file is damaged or not the one that was published, or weights do not fit or are a
        pickle.

    Warns
    -----
    NonCommercialWarning
        If the licence of the model excludes commercial use; once per process.

    Examples
    --------
    >>> import sfm
    >>> sfm.load("sfm-mini").tokenizer.name
    'rank'
    """
    if not isinstance(name_or_path, str | Path):
        msg = f"name_or_path={name_or_path!r} names no model. Pass a name from `sfm.list_models()`, a directory or a hub id."
        raise TypeError(msg)
    found = locate(name_or_path, revision=revision, family=family)
    return read_directory(
        found.directory,
        name=str(name_or_path),
        revision=found.revision,
        family=family or found.family,
        trust_pickle=trust_pickle,
        **{**found.options, **options},
    )


def read_directory(
    directory: Path,
    *,
    name: str,
    revision: str | None = None,
    family: str | None = None,
    trust_pickle: bool = False,
    **options: Any,
) -> PretrainedCells:
    """Read a directory in sfm's own layout or a published one."""
    found = None if is_model_directory(directory) and family is None else find_family(directory, family)
    if found is not None:
        show_licence(found.name, name=name)
        return read_published(directory, found, name=name, revision=revision, trust_pickle=trust_pickle, **options)
    if not is_model_directory(directory):
        raise no_model(directory, name)
    if options:
        msg = (
            f"{str(directory)!r} is not in the layout of a published model, so options such as {sorted(options)[0]!r} "
            "mean nothing to it. Leave them out."
        )
        raise TypeError(msg)
    pretrained = read_pretrained(directory, name=name, revision=revision, trust_pickle=trust_pickle)
    model: Any = pretrained.model
    if model.config.architecture is not None:  # a licence goes with the weights, whatever layout they are saved in
        show_licence(model.config.architecture)
    return pretrained


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
