"""The genes of Nicheformer, and the means of technologies that counts are divided by."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from sfm._warn import warn
from sfm.checkpoints._pretrained import read_json

MeanRule = Literal["rounded", "clean", "nan"]

VOCABULARY = "vocab.json"
GENES = "model.h5ad"
MEAN = "_mean_script.npy"
FOLDERS = ("", "model_means", "data/model_means")
#: What comes before the genes: special tokens, context, and numbers that nothing uses.
FIRST_GENE = 30


def follow_rule(means: np.ndarray, rule: MeanRule) -> np.ndarray:
    """Return the means as they are divided by; zero and, unless the rule is `"nan"`, missing ones become 1."""
    if rule not in ("rounded", "clean", "nan"):
        msg = f"Unknown mean_rule={rule!r}. Choose 'rounded', 'clean' or 'nan'."
        raise ValueError(msg)
    if rule == "rounded":
        means = np.floor(np.nan_to_num(means) + 0.5)
    elif rule == "clean":
        means = np.where(np.isnan(means), 1.0, means)
    return np.where(means == 0, 1.0, means)


def read_genes(directory: Path) -> tuple[list[str], int]:
    """Return the genes in the order of their tokens, and the token of padding."""
    path = directory / VOCABULARY
    if path.is_file():
        ids = read_json(path)
        genes = sorted((name for name in ids if not name.startswith("[")), key=ids.__getitem__)
        if [ids[gene] for gene in genes] != list(range(FIRST_GENE, FIRST_GENE + len(genes))):
            msg = f"{str(path)!r} does not number its genes from {FIRST_GENE} on: it is no vocabulary of Nicheformer."
            raise ValueError(msg)
        return genes, int(ids.get("[PAD]", 1))
    found = _find(directory, GENES)
    if not found:
        msg = (
            f"Did not find {GENES!r} in {str(directory)!r}, which lists the genes in the order of their tokens. Download "
            "it from the folder 'data/model_means' of the repository 'theislab/nicheformer'."
        )
        raise FileNotFoundError(msg)
    return _names_of_genes(found[0]), 1


def _names_of_genes(path: Path) -> list[str]:
    import h5py
    from anndata.io import read_elem

    try:
        with h5py.File(path, "r") as file:
            return [str(name) for name in read_elem(file["var"]).index]
    except (OSError, KeyError) as error:
        msg = f"{str(path)!r} cannot be read as an h5ad file ({error}). It may be truncated: download it again."
        raise ValueError(msg) from error


def _find(directory: Path, pattern: str) -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (directory / folder).glob(pattern))


def read_means(directory: Path, which: str | Path | None, n_genes: int) -> np.ndarray | None:
    path = None if which is None else _mean_file(directory, which)
    if path is None:
        return None
    try:
        means = np.load(path, allow_pickle=False)  # noqa: TID251 - a single array, which cannot be a pickle
    except (OSError, ValueError, EOFError) as error:
        msg = f"{str(path)!r} cannot be read as an array ({error}). It may be truncated: download it again."
        raise ValueError(msg) from error
    if means.shape != (n_genes,):
        msg = f"{str(path)!r} has means of shape {means.shape!r}, but the model has {n_genes} genes."
        raise ValueError(msg)
    return np.asarray(means, dtype=np.float64)


def _mean_file(directory: Path, which: str | Path) -> Path | None:
    known = {path.name.removesuffix(MEAN): path for path in _find(directory, f"*{MEAN}")}
    names = ", ".join(map(repr, known)) or "none"
    if which != "auto":
        path = known.get(str(which), Path(which).expanduser())
        if not path.is_file():
            msg = f"technology_mean={str(which)!r} is neither a file nor one of those with the model ({names})."
            raise FileNotFoundError(msg)
        return path
    if len(known) > 1:
        msg = f"There are means of several technologies in {str(directory)!r}: {names}. Pass one as technology_mean=."
        raise ValueError(msg)
    if not known:
        warn(
            f"Found no means of a technology ('*{MEAN}') in {str(directory)!r}, so genes are ranked by counts alone, which "
            "is not how the model was trained. Pass technology_mean= with the file, or technology_mean=None."
        )
    return next(iter(known.values()), None)
