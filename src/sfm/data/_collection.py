"""Collections of data sets with the same genes in one file, as annbatch lays them out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from anndata import AnnData

_DATASET = re.compile(r"dataset_(\d+)")


def collected(root: Any) -> list[Any]:
    """Return the groups `dataset_0`, `dataset_1`, ... of a file in order; none if it is not a collection."""
    numbers = sorted(int(found[1]) for found in map(_DATASET.fullmatch, root) if found)
    return [root[f"dataset_{number}"] for number in numbers]


def join(datasets: list[Any], *, slot: str) -> AnnData:
    """Put data sets one after the other; their matrices become dask arrays over the file.

    Parameters
    ----------
    datasets
        A group for each data set.
    slot
        What messages call the file.

    Raises
    ------
    ValueError
        If they do not have the same genes.
    """
    from anndata import AnnData
    from anndata.io import read_elem

    obs = [read_elem(dataset["obs"]) for dataset in datasets]
    var = [read_elem(dataset["var"]) for dataset in datasets]
    different = next((i for i, other in enumerate(var) if not other.index.equals(var[0].index)), None)
    if different is not None:
        msg = f"The first and the data set number {different} of {slot!r} have different genes. Open them one by one."
        raise ValueError(msg)
    layers = set.intersection(*({*dataset.get("layers", {})} for dataset in datasets))
    return AnnData(
        X=_stacked([dataset["X"] for dataset in datasets], slot),
        obs=pd.concat(obs),
        var=var[0],
        layers={name: _stacked([dataset["layers"][name] for dataset in datasets], slot) for name in sorted(layers)},
    )


def _stacked(stored: list[Any], slot: str) -> Any:
    try:
        import dask.array as da
        from anndata.experimental import read_elem_lazy
    except ImportError as error:
        error.add_note(f'Reading the collection {slot!r} needs dask: `pip install "sfm-tools[dask]"`.')
        raise
    return da.concatenate([read_elem_lazy(matrix) for matrix in stored])
