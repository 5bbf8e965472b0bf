from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class CatalogueEntry:
    """A model that can be named in `model=`."""

    name: str
    species: str
    tokenizer: str
    backbone: str
    parameters: str
    source: str
    licence: str
    description: str


CATALOGUE = (
    CatalogueEntry(
        name="sfm-mini",
        species="human",
        tokenizer="rank",
        backbone="bert",
        parameters="2.4 million",
        source="bundled",
        licence="BSD-3-Clause",
        description="Small model for trying things out, pretrained mostly on blood; see its card.",
    ),
)

DEFAULT_MODEL = "sfm-mini"


def bundled_path(name: str) -> Path:
    """Directory of a bundled model."""
    return Path(str(files("sfm") / "resources" / name.replace("-", "_")))


def list_models() -> pd.DataFrame:
    """List the models that can be named in `model=`.

    Any directory written by `save_pretrained`, and any hub id of one, can be given as well.

    Returns
    -------
    A data frame indexed by name: species, tokenizer, backbone, number of parameters, where the model comes from, its
    licence, and a description.

    Examples
    --------
    >>> import sfm
    >>> sfm.list_models().index.tolist()
    ['sfm-mini']
    """
    import pandas as pd

    return pd.DataFrame([asdict(entry) for entry in CATALOGUE]).set_index("name")
