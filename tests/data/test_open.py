"""Files of cells are opened without their matrices, and what is no such file is named."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import anndata as ad
import h5py
import numpy as np
import pytest
import zarr
from scipy import sparse

import sfm
from sfm.data import open_cells
from sfm.datasets import toy_cells

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["h5ad", "zarr"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    adata = toy_cells(60)
    adata.layers["dense"] = adata.X.toarray()
    adata.raw = adata.copy()
    adata.obsm["X_pca"] = np.zeros((60, 2))
    adata.uns["large"] = np.zeros(100)
    path = tmp_path / f"cells.{request.param}"
    getattr(adata, f"write_{request.param}")(path)
    return path


def test_matrices_stay_on_disk(path: Path) -> None:
    adata = toy_cells(60)
    with open_cells(path) as opened:
        for stored in (opened.X, opened.layers["dense"], opened.raw.X):
            assert stored.shape == adata.shape
            assert not isinstance(stored, np.ndarray | sparse.spmatrix | sparse.sparray)
        assert opened.obs.equals(adata.obs)
        assert opened.var.equals(adata.var)
        assert not opened.obsm
        assert not opened.uns
        assert np.array_equal(opened.X[3:7].toarray(), adata.X[3:7].toarray())


def test_the_file_is_left_as_it_was(path: Path) -> None:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}
    with open_cells(str(path)) as opened:
        sfm.tl.embed(opened, sfm.datasets.toy_model())
        assert opened.obsm["X_sfm"].shape == (60, 16)
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in before} == before


def test_an_error_of_the_caller_is_not_taken_for_one_of_the_file(path: Path) -> None:
    with pytest.raises(KeyError, match="no such layer"), open_cells(path) as opened:
        raise KeyError("no such layer" if opened.n_obs == 60 else "other")


def test_files_without_raw_and_without_X(tmp_path: Path) -> None:
    adata = toy_cells(60)
    ad.AnnData(obs=adata.obs, var=adata.var).write_zarr(tmp_path / "cells.zarr")
    with open_cells(tmp_path / "cells.zarr") as opened:
        assert opened.raw is None
        assert opened.X is None


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Did not find '.*cells.h5ad'"), open_cells(tmp_path / "cells.h5ad"):
        pass


@pytest.mark.parametrize("kind", ["text.h5ad", "empty.zarr", "other.h5ad", "other.zarr", "cut.h5ad"])
def test_other_files_are_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    match kind:
        case "text.h5ad":
            path.write_text("cells")
        case "empty.zarr":
            path.mkdir()
        case "other.h5ad":
            with h5py.File(path, "w") as file:
                file["values"] = np.zeros(3)
        case "other.zarr":
            zarr.open_group(path, mode="w")
        case _:
            toy_cells(60).write_h5ad(path)
            path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=rf"{kind}' holds no AnnData, or is damaged"), open_cells(path):
        pass


def test_files_of_the_first_versions_of_anndata_are_named(tmp_path: Path) -> None:
    path = tmp_path / "old.h5ad"
    with h5py.File(path, "w") as file:
        file["X"] = np.zeros((2, 3))
        for name, size in (("obs", 2), ("var", 3)):
            file[name] = np.array([(str(i).encode(),) for i in range(size)], dtype=[("index", "S4")])
    with pytest.raises(ValueError, match=r"written by anndata before 0\.7.*Write it anew"), open_cells(path):
        pass


def stored(path: Path, *, by: str, chunk: int = 200) -> Path:
    """Write a store whose matrix has many chunks."""
    adata = toy_cells(60)
    root = zarr.open_group(path, mode="w", zarr_format=2)
    for name in ("obs", "var"):
        ad.io.write_elem(root, name, getattr(adata, name))
    ad.io.write_elem(root, "X", getattr(adata.X, f"to{by}")(), dataset_kwargs={"chunks": (chunk,)})
    return path


@pytest.mark.parametrize("array", ["data", "indices"])
@pytest.mark.parametrize("by", ["csr", "csc"])
def test_lost_chunks_are_noticed(by: str, array: str, tmp_path: Path) -> None:
    """zarr reads them as zeros."""
    path = stored(tmp_path / "cells.zarr", by=by)
    (path / "X" / array / "3").unlink()
    message = f"adata.X is not complete: chunks of `{array}` are missing"
    with open_cells(path) as opened, pytest.raises(ValueError, match=message):
        sfm.tl.embed(opened, sfm.datasets.toy_model())


@pytest.mark.parametrize("by", ["csr", "csc"])
def test_lost_ends_of_rows_are_noticed(by: str, tmp_path: Path) -> None:
    path = stored(tmp_path / "cells.zarr", by=by, chunk=20)
    (path / "X" / "indptr" / "1").unlink()
    with open_cells(path) as opened, pytest.raises(ValueError, match="`indptr` does not fit"):
        sfm.tl.embed(opened, sfm.datasets.toy_model())


def test_cells_that_have_the_first_gene_alone_are_complete(tmp_path: Path) -> None:
    """Their column numbers are zeros, which zarr does not write."""
    adata = toy_cells(60)
    adata.X = sparse.csr_matrix((np.full(60, 2.0, dtype=np.float32), np.zeros(60, dtype=int), range(61)), adata.shape)
    adata.write_zarr(tmp_path / "cells.zarr")
    with open_cells(tmp_path / "cells.zarr") as opened:
        assert opened.X.group["indices"].nchunks_initialized == 0
        sfm.pp.tokenize(opened, sfm.datasets.toy_model().tokenizer)
        assert len(np.unique(opened.obsm["tokens"].toarray(), axis=0)) == 1


@pytest.mark.filterwarnings("ignore:zarr v3 autosharding")
@pytest.mark.parametrize("make", [sparse.csr_matrix, lambda X: X.toarray()], ids=["csr", "dense"])
@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_a_collection_is_its_data_sets_one_after_the_other(kind: str, make: Any, tmp_path: Path) -> None:
    """As annbatch lays them out: one group for each."""
    adata = toy_cells(60)
    path = tmp_path / f"cells.{kind}"
    with (
        h5py.File(path, "w") if kind == "h5ad" else nullcontext(zarr.open_group(path, mode="w", zarr_format=3)) as root
    ):
        for i, start in enumerate(range(0, 60, 5)):  # more than ten, so that names do not sort as numbers do
            part = adata[start : start + 5].copy()
            part.X = make(part.X)
            part.layers["counts"] = part.X
            ad.io.write_elem(root, f"dataset_{i}", part)
    pretrained = sfm.datasets.toy_model()
    sfm.tl.embed(adata, pretrained)
    with open_cells(path) as opened:
        assert opened.obs_names.equals(adata.obs_names)
        assert opened.obs["cell_type"].astype(str).equals(adata.obs["cell_type"].astype(str))
        for layer in (None, "counts"):
            sfm.tl.embed(opened, pretrained, layer=layer)
            np.testing.assert_allclose(opened.obsm["X_sfm"], adata.obsm["X_sfm"], atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:zarr v3 autosharding")
def test_data_sets_with_other_genes_are_not_joined(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "cells.zarr", mode="w", zarr_format=3)
    for i in range(2):
        ad.io.write_elem(root, f"dataset_{i}", toy_cells(5)[:, i:].copy())
    with pytest.raises(ValueError, match="number 1 of .* different genes"), open_cells(tmp_path / "cells.zarr"):
        pass
