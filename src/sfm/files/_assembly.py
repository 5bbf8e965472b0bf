"""The finished file: what is known about the cells, and the vectors part by part."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np

from sfm.files._parts import sync_folder, write_whole
from sfm.files._store import has_summary, open_store, summarise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    import pandas as pd

    from sfm._keys import EmbeddingKeys
    from sfm.files._fingerprint import Fingerprint
    from sfm.files._parts import EmbeddingParts
    from sfm.files._paths import FilePaths

_ASSEMBLED, _REPLACED, _READY = "assembled", "replaced", "ready"


def is_complete(paths: FilePaths, fingerprint: Fingerprint | None = None) -> bool:
    """Whether the finished file (of such a run) is in its place, and only the parts were not removed yet."""
    ready = paths.parts / _READY
    if not ready.exists() or _assembled(paths).exists() or not paths.out.exists():
        return False
    return fingerprint is None or json.loads(ready.read_text()) == fingerprint


def assemble(
    paths: FilePaths,
    parts: EmbeddingParts,
    obs: pd.DataFrame,
    fingerprint: Fingerprint,
    *,
    keys: EmbeddingKeys,
    params: dict[str, Any],
    copy_input: bool,
) -> None:
    """Write everything under another name, and then move it to where it belongs."""

    def fill(root: Any) -> None:
        _write_vectors(root["obsm"], keys.obsm, parts)
        ad.io.write_elem(root["uns"], keys.uns, {"params": params})

    remove_assembled(paths)
    new = _assembled(paths)
    build(new, obs, fill, source=paths.source, copy_input=copy_input)
    write_whole(paths.parts / _READY, json.dumps(fingerprint).encode())
    move_into_place(new, paths.out, replaced=paths.parts / _REPLACED)


def build(new: Path, obs: pd.DataFrame, fill: Callable[[Any], None], *, source: Path, copy_input: bool) -> None:
    """Write a file with `obs` alone, or a copy of the input, and what `fill` adds; nothing is left of a failure."""
    try:
        if copy_input:
            _copy(source, new)
        else:
            _write(ad.AnnData(obs=obs), new, source=source)
        summarised = has_summary(new)
        with _opened(new) as root:
            for name in {"obsm", "uns"} - set(root):
                ad.io.write_elem(root, name, {})
            fill(root)
        if summarised:
            summarise(new)
        _sync(new)
    except BaseException:
        remove(new)
        raise


def move_into_place(new: Path, out: Path, *, replaced: Path) -> None:
    """Give a file its name; a store that has it already is moved aside."""
    if out.is_dir() and not out.is_symlink():  # a folder with files is not replaced by a rename
        remove(replaced)
        out.rename(replaced)
    new.replace(out)
    sync_folder(out.parent)


def remove_assembled(paths: FilePaths) -> None:
    """Remove what an earlier assembly left."""
    (paths.parts / _READY).unlink(missing_ok=True)
    remove(_assembled(paths))


def clear(paths: FilePaths, parts: EmbeddingParts) -> None:
    """Remove everything of a run that is complete; last of all the note that it is."""
    parts.clear()
    remove(paths.parts / _REPLACED)
    remove_assembled(paths)


def remove(path: Path) -> None:
    """Remove a file or a store, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _assembled(paths: FilePaths) -> Path:
    return paths.parts / f"{_ASSEMBLED}{paths.out.suffix}"


def _copy(source: Path, new: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, new, copy_function=shutil.copyfile)
        for folder in (new, new / "obsm", new / "uns"):  # the input may be write-protected
            if folder.is_dir():
                folder.chmod(0o755)
    else:
        shutil.copyfile(source, new)


def _write(adata: ad.AnnData, new: Path, *, source: Path) -> None:
    if new.suffix != ".zarr":
        adata.write_h5ad(new)
        return
    with warnings.catch_warnings():
        # Announcements of other defaults, which anndata's own settings decide.
        warnings.filterwarnings("ignore", "Writing zarr v2 data will no longer|zarr v3 autosharding", UserWarning)
        with _zarr_format(source):
            adata.write_zarr(new)


def _zarr_format(source: Path) -> AbstractContextManager[Any]:
    """Let anndata write zarr in the version that a store has; another input leaves it to anndata's settings."""
    if source.suffix != ".zarr" or not hasattr(ad.settings, "zarr_write_format"):
        return nullcontext()
    return ad.settings.override(zarr_write_format=3 if (source / "zarr.json").exists() else 2)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if path.suffix == ".zarr":
        yield open_store(path)
        return
    import h5py

    with h5py.File(path, "r+") as file:
        yield file


def _write_vectors(obsm: Any, name: str, parts: EmbeddingParts) -> None:
    if name in obsm:
        del obsm[name]
    array: Any = None
    for part in parts:
        if array is None:
            array = _empty_array(obsm, name, (parts.n_obs, part.vectors.shape[1]), parts.window_size)
        array[part.start : part.stop] = part.vectors


def _empty_array(group: Any, name: str, shape: tuple[int, int], window_size: int) -> Any:
    options: dict[str, Any] = {"shape": shape, "dtype": np.dtype(np.float32)}
    if type(group).__module__.startswith("zarr"):
        create = getattr(group, "create_array", None) or group.create_dataset
        array = create(name, chunks=(min(window_size, shape[0]), shape[1]), **options)
    else:
        array = group.create_dataset(name, **options)
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return array


def _sync(path: Path) -> None:
    """Put a file, or all of a store, on the disk."""
    if path.is_dir():
        getattr(os, "sync", lambda: None)()
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())
