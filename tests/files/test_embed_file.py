"""`embed_file` writes what `tl.embed` writes, in one go or in several, and refuses what cannot be meant."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from io import StringIO
from typing import TYPE_CHECKING, Any

import anndata as ad
import h5py
import numpy as np
import pytest
import scanpy as sc
import zarr
from scipy import sparse

import sfm
from sfm.datasets import toy_cells, toy_model
from sfm.files._embed_file import embed_file
from sfm.files._lock import only_writer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sfm.checkpoints import PretrainedCells

pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sfm.settings, "window_size", 16)


@pytest.fixture(scope="module")
def model() -> PretrainedCells:
    return toy_model(max_length=48)


@pytest.fixture(params=[".h5ad", ".zarr"])
def cells(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return written(toy_cells(60), tmp_path / f"cells{request.param}")


@pytest.fixture
def h5ad(tmp_path: Path) -> Path:
    return written(toy_cells(60), tmp_path / "cells.h5ad")


def written(adata: ad.AnnData, path: Path) -> Path:
    getattr(adata, f"write_{path.suffix[1:]}")(path)
    return path


def read(path: Path) -> ad.AnnData:
    return getattr(ad, f"read_{path.suffix[1:]}")(path)


def embedded(adata: ad.AnnData, model: Any, **options: Any) -> ad.AnnData:
    sfm.tl.embed(adata, model, **options)
    return adata


def digest(path: Path) -> dict[str, str]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_output_is_that_of_embed(cells: Path, model: PretrainedCells, suffix: str) -> None:
    before = digest(cells)
    out = embed_file(cells, model, cells.with_name(f"out{suffix}"))
    found, expected = read(out), embedded(toy_cells(60), model)
    assert np.array_equal(found.obsm["X_sfm"], expected.obsm["X_sfm"])
    assert found.obsm["X_sfm"].dtype == np.float32
    assert dict(found.uns["X_sfm"]["params"]) == expected.uns["X_sfm"]["params"]
    assert found.obs.equals(expected.obs)
    assert found.shape == (60, 0)
    assert set(found.obsm) == set(found.uns) == {"X_sfm"}
    assert digest(cells) == before
    assert names(cells.parent) == {cells.name, out.name}


def test_input_is_copied_as_it_is(cells: Path, model: PretrainedCells) -> None:
    adata = toy_cells(60)
    adata.layers["counts"], adata.obsm["X_pca"], adata.uns["note"] = adata.X.copy(), np.ones((60, 2)), {"a": 1}
    adata.obsm["X_sfm"], adata.uns["X_sfm"] = np.zeros((60, 3)), {"params": {"model": "another"}}
    shutil.rmtree(cells) if cells.is_dir() else cells.unlink()
    written(adata, cells)
    found = read(embed_file(cells, model, copy_input=True))
    expected = embedded(adata, model)
    assert (found.X != adata.X).nnz == 0
    assert (found.layers["counts"] != adata.X).nnz == 0
    assert np.array_equal(found.obsm["X_pca"], adata.obsm["X_pca"])
    assert np.array_equal(found.obsm["X_sfm"], expected.obsm["X_sfm"])
    assert found.uns["note"] == {"a": 1}
    assert dict(found.uns["X_sfm"]["params"]) == expected.uns["X_sfm"]["params"]
    assert found.var.equals(adata.var)


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")  # anndata summarises what it writes
@pytest.mark.parametrize("copy_input", [False, True])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_stores_keep_their_format(tmp_path: Path, model: PretrainedCells, zarr_format: int, copy_input: bool) -> None:
    with ad.settings.override(zarr_write_format=zarr_format):
        cells = written(toy_cells(60), tmp_path / "cells.zarr")
    out = embed_file(cells, model, copy_input=copy_input)
    assert zarr.open_group(out, mode="r").metadata.zarr_format == zarr_format
    found = read(out)
    assert found.obsm["X_sfm"].shape == (60, 16)
    assert found.shape == (60, 300 if copy_input else 0)


def test_options_reach_the_model(h5ad: Path, model: PretrainedCells) -> None:
    adata = toy_cells(60)
    adata.layers["counts"], adata.var["symbol"] = adata.X.copy(), adata.var_names
    adata.X, adata.var_names = sparse.csr_matrix(adata.shape, dtype=np.float32), [f"gene {i}" for i in range(300)]
    options: dict[str, Any] = {"layer": "counts", "gene_symbols": "symbol", "pooling": "max", "batch_size": 3}
    written(adata, h5ad)
    found = read(embed_file(h5ad, model, key_added="X_mine", **options))
    expected = embedded(adata, model, key_added="X_mine", **options)
    assert np.array_equal(found.obsm["X_mine"], expected.obsm["X_mine"])
    assert dict(found.uns["X_mine"]["params"]) == expected.uns["X_mine"]["params"]


def test_output_stands_beside_the_input_by_default(cells: Path, model: PretrainedCells) -> None:
    assert embed_file(cells, model) == cells.with_name(f"cells_embedded{cells.suffix}")


def test_empty_cells_are_counted_over_all_parts(h5ad: Path, model: PretrainedCells) -> None:
    adata = toy_cells(60)
    adata.X = sparse.diags((~np.isin(np.arange(60), [3, 40])).astype(np.float32)) @ adata.X
    written(adata, h5ad)
    with pytest.warns(UserWarning, match="2 of 60 cells have no count on a known gene"):
        out = embed_file(h5ad, model)
    assert read(out).uns["X_sfm"]["params"]["n_empty_cells"] == 2


def test_same_vector_for_all_is_reported(h5ad: Path, model: PretrainedCells) -> None:
    adata = toy_cells(60)
    written(ad.AnnData(adata.X[[5] * 60], var=adata.var), h5ad)
    with pytest.warns(UserWarning, match="All 60 cells got the same vector"):
        embed_file(h5ad, model)


@pytest.fixture
def interrupted(h5ad: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The input as it should be, of one whose last window cannot be read."""
    monkeypatch.setattr(sfm.settings, "window_size", 64)
    written(toy_cells(300), h5ad)
    whole = h5ad.with_name("whole.h5ad")
    with h5py.File(h5ad, "r+") as file:
        counts = file["X/data"][:]
        del file["X/data"]
        file["X"].create_dataset("data", data=counts, chunks=(64,), compression="gzip")
    shutil.copy2(h5ad, whole)
    with h5py.File(h5ad) as file:
        data = file["X/data"]
        place = next(
            data.id.get_chunk_info(i)
            for i in range(data.id.get_num_chunks())
            if data.id.get_chunk_info(i).chunk_offset[0] >= file["X/indptr"][270]
        )
    with h5ad.open("r+b") as file:
        file.seek(place.byte_offset)
        file.write(b"\xff" * place.size)
    os.utime(h5ad, ns=(0, whole.stat().st_mtime_ns))
    return whole


def test_damaged_input_is_named_and_finished_parts_are_kept(
    h5ad: Path, model: PretrainedCells, interrupted: Path
) -> None:
    before = digest(h5ad)
    with pytest.raises(OSError, match=r"Could not read all cells of '.*cells.h5ad' .* kept in '.*parts'.* truncated"):
        embed_file(h5ad, model)
    assert digest(h5ad) == before
    parts = {name for name in names(h5ad.with_name("cells_embedded.h5ad.parts")) if name.startswith("part-")}
    assert parts == {f"part-{start:012d}.safetensors" for start in (0, 64, 128, 192)}
    shutil.copy2(interrupted, h5ad)
    out = embed_file(h5ad, model)
    assert digest(out) == digest(embed_file(h5ad, model, h5ad.with_name("at_once.h5ad")))


def test_parts_of_another_run_are_refused_and_may_be_discarded(
    h5ad: Path, model: PretrainedCells, interrupted: Path
) -> None:
    with pytest.raises(OSError, match="Could not read"):
        embed_file(h5ad, model)
    shutil.copy2(interrupted, h5ad)
    other = toy_model(max_length=48, seed=1)
    with pytest.raises(ValueError, match=r"another run: .*weights_hash is '\w{12}\.\.\.', was .*overwrite=True"):
        embed_file(h5ad, other)
    with pytest.raises(ValueError, match="another run: option pooling is 'max', was None"):
        embed_file(h5ad, model, pooling="max")
    out = embed_file(h5ad, other, overwrite=True)
    assert np.array_equal(read(out).obsm["X_sfm"], embedded(toy_cells(300), other).obsm["X_sfm"])


def test_parts_of_another_input_are_refused(h5ad: Path, model: PretrainedCells, interrupted: Path) -> None:
    with pytest.raises(OSError, match="Could not read"):
        embed_file(h5ad, model)
    with pytest.raises(ValueError, match="another run: input path is '.*whole.h5ad', was '.*cells.h5ad'"):
        embed_file(interrupted, model, h5ad.with_name("cells_embedded.h5ad"))


def broken_off(cells: Path, model: PretrainedCells) -> ad.AnnData:
    """Cells of which all windows but the last were embedded; they are stored with a value that is no count."""
    sfm.settings.window_size = 64
    whole = toy_cells(300)  # more than are looked at beforehand
    adata = whole.copy()
    adata.X.data[-1] = 0.5
    rewritten(adata, cells)
    with pytest.raises(ValueError, match=r"raw counts are needed.*kept in '.*parts'.*Mend the file, and run the same"):
        embed_file(cells, model)
    assert len(list(cells.parent.glob("*.parts/part-*"))) == 4
    return whole


def rewritten(adata: ad.AnnData, path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    written(adata, path)


@pytest.fixture
def log() -> Iterator[StringIO]:
    before = sc.settings.verbosity, sc.settings.logfile
    sc.settings.verbosity, sc.settings.logfile = 2, StringIO()
    yield sc.settings.logfile
    sc.settings.verbosity, sc.settings.logfile = before


def test_a_run_goes_on_once_its_input_is_mended(cells: Path, model: PretrainedCells, log: StringIO) -> None:
    whole = broken_off(cells, model)
    whole.obs["note"] = "mended"
    rewritten(whole, cells)
    out = embed_file(cells, model)
    assert "resumed: 256 of 300 cells were finished before" in log.getvalue()
    assert digest(out) == digest(embed_file(cells, model, cells.with_name(f"at_once{cells.suffix}")))
    assert (read(out).obs["note"] == "mended").all()


@pytest.mark.parametrize(
    ("changed", "n_kept"), [("a cell", 3), ("all cells", 0), ("fewer cells", 2), ("a gene's name", 0)]
)
def test_cells_that_changed_are_computed_anew(h5ad: Path, model: PretrainedCells, changed: str, n_kept: int) -> None:
    whole = broken_off(h5ad, model)
    match changed:
        case "a cell":
            whole.X.data[whole.X.indptr[70]] += 70
        case "all cells":
            whole = toy_cells(300, seed=1)
        case "fewer cells":
            whole = whole[:150].copy()
        case "a gene's name":
            whole.var_names = ["of no gene" if name == "ACTB" else name for name in whole.var_names]
    rewritten(whole, h5ad)
    with pytest.warns(UserWarning, match=rf"was changed after 4 parts .* finished. {n_kept} of them are kept"):
        out = embed_file(h5ad, model)
    assert digest(out) == digest(embed_file(h5ad, model, h5ad.with_name("at_once.h5ad")))
    assert names(h5ad.parent) == {h5ad.name, out.name, "at_once.h5ad"}


def test_parts_stay_as_long_as_the_input_is_not_mended(h5ad: Path, model: PretrainedCells) -> None:
    whole = broken_off(h5ad, model)
    worse = whole.copy()
    worse.X.data[0] = 0.5
    rewritten(worse, h5ad)
    with pytest.raises(ValueError, match="raw counts are needed"):
        embed_file(h5ad, model)
    rewritten(whole, h5ad)
    parts = h5ad.with_name("cells_embedded.h5ad.parts")
    assert len(list(parts.glob("part-*"))) == 4
    embed_file(h5ad, model)
    assert not parts.exists()


def test_an_input_that_changes_meanwhile_is_refused_until_the_next_call(h5ad: Path, model: PretrainedCells) -> None:
    at_once = digest(embed_file(h5ad, model, h5ad.with_name("at_once.h5ad")))
    embedder: Any = model.model.get_submodule("cell.embedder")
    hook = embedder.register_forward_pre_hook(lambda *_: os.utime(h5ad, ns=(0, 0)))
    try:
        with pytest.raises(
            ValueError, match="changed while it was read: input changed is 0, .*Run the same call again"
        ):
            embed_file(h5ad, model)
    finally:
        hook.remove()
    assert digest(embed_file(h5ad, model)) == at_once


@pytest.mark.parametrize("damage", [b"", b"\x00" * 3000, None], ids=["emptied", "zeros", "one byte"])
def test_damaged_parts_are_computed_anew(
    h5ad: Path, model: PretrainedCells, interrupted: Path, damage: bytes | None
) -> None:
    with pytest.raises(OSError, match="Could not read"):
        embed_file(h5ad, model)
    shutil.copy2(interrupted, h5ad)
    part = h5ad.with_name("cells_embedded.h5ad.parts") / "part-000000000000.safetensors"
    content = part.read_bytes()
    part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if damage is None else damage)
    out = embed_file(h5ad, model)
    assert digest(out) == digest(embed_file(h5ad, model, h5ad.with_name("at_once.h5ad")))


def test_one_writer_at_a_time(h5ad: Path, model: PretrainedCells) -> None:
    parts = h5ad.with_name("cells_embedded.h5ad.parts")
    with only_writer(parts), pytest.raises(BlockingIOError, match=f"process {os.getpid()} on host '.*' since .* UTC"):
        embed_file(h5ad, model)
    assert names(h5ad.parent) == {h5ad.name}
    embed_file(h5ad, model)


def test_a_lock_that_was_left_behind_does_not_block(h5ad: Path, model: PretrainedCells) -> None:
    parts = h5ad.with_name("cells_embedded.h5ad.parts")
    parts.mkdir()
    (parts / "lock").touch()
    (parts / "writer.json").write_text(json.dumps({"pid": 1, "host": "another", "since": "long ago"}))
    out = embed_file(h5ad, model)
    assert names(h5ad.parent) == {h5ad.name, out.name}


def test_existing_output_is_replaced_only_when_asked(cells: Path, model: PretrainedCells) -> None:
    out = embed_file(cells, model)
    before = digest(out)
    with pytest.raises(FileExistsError, match="exists already. Pass overwrite=True"):
        embed_file(cells, model, pooling="max")
    assert digest(out) == before
    embed_file(cells, model, pooling="max", overwrite=True)
    assert read(out).uns["X_sfm"]["params"]["pooling"] == "max"
    assert names(cells.parent) == {cells.name, out.name}


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_a_folder_of_other_things_is_never_replaced(h5ad: Path, model: PretrainedCells, suffix: str) -> None:
    folder = h5ad.with_name(f"mine{suffix}")
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds other things than cells"):
        embed_file(h5ad, model, folder, overwrite=True)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"path": "nowhere.h5ad"}, FileNotFoundError, "Did not find path='.*nowhere.h5ad'"),
        ({"path": "cells.loom"}, ValueError, "ends in '.loom'"),
        ({"out": "out.csv"}, ValueError, "out='.*out.csv' ends in '.csv'"),
        ({"out": "cells.h5ad"}, ValueError, "would write into the input"),
        ({"out": "cells.h5ad/out.zarr"}, ValueError, "would write into the input"),
        ({"out": "nowhere/out.h5ad"}, FileNotFoundError, "The folder of out=.* does not exist"),
        ({"out": "out.zarr", "copy_input": True}, ValueError, "must end in '.h5ad' as well"),
        ({"key_added": "a/b"}, ValueError, "key_added='a/b'"),
        ({"precision": "fp16"}, ValueError, "precision='fp16'"),
        ({"batch_size": 0}, ValueError, "batch_size=0"),
        ({"layer": "counts"}, KeyError, r"adata.layers\['counts'\]"),
        ({"model": "no model"}, ValueError, "Unknown model 'no model'"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_leaves_nothing(
    h5ad: Path, model: PretrainedCells, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    options = {"path": "cells.h5ad", "model": model, **options}
    for name in options.keys() & {"path", "out"}:
        options[name] = h5ad.parent / options[name]
    before = digest(h5ad)
    with pytest.raises(error, match=match):
        embed_file(**options)
    assert digest(h5ad) == before
    assert names(h5ad.parent) == {h5ad.name}


def test_output_that_is_a_link_to_the_input_is_refused(h5ad: Path, model: PretrainedCells) -> None:
    h5ad.with_name("link.h5ad").symlink_to(h5ad)
    with pytest.raises(ValueError, match="would write into the input"):
        embed_file(h5ad, model, h5ad.with_name("link.h5ad"), overwrite=True)


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="needs a folder in which nobody can write")
def test_folder_that_cannot_be_written_to_is_refused(h5ad: Path, model: PretrainedCells) -> None:
    with pytest.raises(PermissionError, match="Cannot write into '/proc"):
        embed_file(h5ad, model, "/proc/out.h5ad")


def test_values_that_are_no_counts_leave_nothing(h5ad: Path, model: PretrainedCells) -> None:
    adata = toy_cells(60)
    adata.X.data[-1] = 0.5  # in the last window
    written(adata, h5ad)
    with pytest.raises(ValueError, match="raw counts are needed"):
        embed_file(h5ad, model)
    adata.X.data[0] = 0.5
    written(adata, h5ad)
    with pytest.raises(ValueError, match="raw counts are needed"):
        embed_file(h5ad, model, h5ad.with_name("other.h5ad"))
    assert not h5ad.with_name("other.h5ad.parts").exists()


def test_dry_run_writes_nothing(h5ad: Path, model: PretrainedCells) -> None:
    plan = embed_file(h5ad, model, dry_run=True)
    assert plan.n_cells == 60
    assert names(h5ad.parent) == {h5ad.name}
