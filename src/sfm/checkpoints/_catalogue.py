from __future__ import annotations

from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from sfm.checkpoints._entries import CATALOGUE
from sfm.checkpoints._family import FAMILIES

if TYPE_CHECKING:
    import pandas as pd

    from sfm.checkpoints._sources import CatalogueEntry

DEFAULT_MODEL = "sfm-mini"
#: Models in sfm's own layout, which need no family to read them.
OWN = "sfm"


def bundled_path(name: str) -> Path:
    """Directory of a bundled model."""
    return Path(str(files("sfm") / "resources" / name.replace("-", "_")))


def known_entries() -> dict[str, CatalogueEntry]:
    """Return the models of the catalogue that can be read, by name."""
    readable = {OWN, *FAMILIES.names()}
    return {entry.name: entry for entry in CATALOGUE if entry.family in readable}


def list_models() -> pd.DataFrame:
    """List the models that can be named in `model=`.

    Any directory written by `save_pretrained` or in the layout in which a model was published, any hub id of one, and
    archives of them can be given as well. Only the models with `source` `"bundled"` come with the package; others are
    downloaded when they are first asked for, or, where they have no direct address, :func:`sfm.load` says which files to
    put where.

    Returns
    -------
    A data frame indexed by name. What the authors of a model do not say is missing or empty.

    `family`
        What reads it; the value of `family=` of :func:`sfm.load`.
    `size`
        Number of parameters, rounded; frozen gene embeddings included.
    `species`, `gene_ids`
        What it was trained on, and the identifiers of its vocabulary (`"ensembl"` or `"symbol"`). Genes are matched by
        either.
    `context`
        Genes of a cell that it reads, at most.
    `dims`
        Length of a cell's vector.
    `licence`, `commercial_use`
        Licence of the weights, or of the code alone where it says so, and whether it allows commercial use.
    `source`
        Page that the files are on.
    `citation`, `description`
        What to cite, and what it is.

    Examples
    --------
    >>> import sfm
    >>> models = sfm.list_models()
    >>> models.loc["sfm-mini", "source"]
    'bundled'
    >>> models[models["dims"] <= 256].index.tolist()[:2]
    ['sfm-mini', 'geneformer-v1-10m']
    """
    import pandas as pd

    records = [{**asdict(entry), "source": entry.source.page} for entry in known_entries().values()]
    columns = [
        "name",
        "family",
        "size",
        "species",
        "gene_ids",
        "context",
        "dims",
        "licence",
        "commercial_use",
        "source",
    ]
    types = {"size": "Int64", "context": "Int64", "dims": "Int64", "commercial_use": "boolean"}
    return pd.DataFrame(records)[[*columns, "citation", "description"]].astype(types).set_index("name")
