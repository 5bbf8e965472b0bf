"""Opening files of cells without reading them."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfm.data._collection import collected, join

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

_FILES = ".h5ad or .zarr"


@contextmanager
def open_cells(path: str | Path) -> Iterator[AnnData]:
    """Open a file of cells for reading, with its matrices left on disk.

    Parameters
    ----------
    path
        An `.h5ad` file or a `.zarr` directory (version 2 or 3, sharded or not) written by anndata; or a collection of
        data sets as annbatch writes it, whose cells come one data set after the other (needs dask).

    Yields
    ------
    AnnData with `obs` and `var` in memory, and `X`, `layers` and `raw` on disk; `obsm`, `obsp`, `uns` and the like are
    left out. Once closed, its matrices cannot be read any more.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    ValueError
        If it holds something else.
    """
    path = Path(path)
    if not path.exists():
        msg = f"Did not find {str(path)!r}. Pass the path of an {_FILES} file."
        raise FileNotFoundError(msg)
    with _open_root(path) as root:
        yield _lazy(root, path)


@contextmanager
def _open_root(path: Path) -> Iterator[Any]:
    if path.is_dir() or path.suffix == ".zip":
        zarr = _import_zarr(path)
        try:
            root = zarr.open_group(path, mode="r")
        except (FileNotFoundError, KeyError) as error:
            raise ValueError(_other(path)) from error
        yield root
        return
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        msg = f"{_other(path)} HDF5 says: {error}."
        raise ValueError(msg) from error
    with file:
        yield file


def _import_zarr(path: Path) -> Any:
    try:
        import zarr
    except ImportError as error:
        error.add_note(f"Reading {str(path)!r} needs zarr: `pip install zarr`.")
        raise
    return zarr


def _other(path: Path) -> str:
    return f"{str(path)!r} holds no AnnData, or is damaged. Pass an {_FILES} file written by `AnnData.write_...`."


def _lazy(root: Any, path: Path) -> AnnData:
    datasets = collected(root)
    if datasets:
        return join(datasets, slot=str(path))
    missing = [name for name in ("obs", "var") if name not in root]
    if missing:
        msg = f"{_other(path)} It has no {' and no '.join(missing)}."
        raise ValueError(msg)
    if not hasattr(root["obs"], "keys"):
        msg = (
            f"{str(path)!r} was written by anndata before 0.7, whose tables cannot be read in parts. Write it anew: "
            f"`anndata.read_h5ad({str(path)!r}).write_h5ad(...)`."
        )
        raise ValueError(msg)
    return lazy_cells(root)


def lazy_cells(root: Any) -> AnnData:
    """Return the cells of a group, with their matrices on disk."""
    from anndata import AnnData
    from anndata.io import read_elem

    layers = root.get("layers", {})
    has_raw = "raw" in root and hasattr(root["raw"], "keys")  # without raw, anndata may store that there is none
    raw = {"X": _matrix(root["raw/X"]), "var": read_elem(root["raw/var"])} if has_raw else None
    return AnnData(
        X=_matrix(root["X"]) if "X" in root else None,
        obs=read_elem(root["obs"]),
        var=read_elem(root["var"]),
        layers={name: _matrix(layers[name]) for name in layers},
        raw=raw,
    )


def _matrix(stored: Any) -> Any:
    """Return a sparse or dense matrix that stays on disk."""
    from anndata.io import sparse_dataset

    return sparse_dataset(stored) if hasattr(stored, "keys") else stored
