"""Cells of several files, tokenized when they are read."""

from __future__ import annotations

import hashlib
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest

import sfm
from sfm.data import encode_cells
from sfm.data._block_loader import BlockLoader
from sfm.data._block_sampler import BlockSampler
from sfm.data._block_split import BlockSplit
from sfm.data._cache import TokenCache
from sfm.data._shards import CellShards
from sfm.datasets import toy_cells, toy_model
from sfm.tokenizers import TokenizedCells

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:.*knows few of the genes")  # toy cells have few
N = (50, 37)


@pytest.fixture(scope="module", params=["h5ad", "zarr"])
def paths(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two files, the second with fewer genes in another order, Ensembl ids, and a donor that is missing."""
    folder = tmp_path_factory.mktemp(request.param)
    first, second = toy_cells(N[0]), toy_cells(N[1], seed=1)[:, ::-1][:, 20:].copy()
    first.obs["donor"] = [f"donor {i % 10 + 1}" for i in range(N[0])]
    second.obs["donor"] = [None, *["donor 20"] * (N[1] - 1)]
    second.var_names = second.var["ensembl_id"].to_numpy()
    found = [folder / f"{i}.{request.param}" for i in range(2)]
    for path, adata in zip(found, (first, second), strict=True):
        adata.write_h5ad(path) if request.param == "h5ad" else adata.write_zarr(path)
    return found


def make(paths: list[Path], kind: str = "rank", **options: str) -> CellShards:
    return CellShards(paths, toy_model(kind).tokenizer, **options)


def in_memory(paths: list[Path], kind: str) -> TokenizedCells:
    import anndata

    read = anndata.read_h5ad if paths[0].suffix == ".h5ad" else anndata.read_zarr
    tokenizer = toy_model(kind).tokenizer
    return TokenizedCells.concatenate([encode_cells(read(p), tokenizer, model_name="toy").cells for p in paths])


def assert_same(found: TokenizedCells, expected: TokenizedCells) -> None:
    for name in ("input_ids", "indptr", "values"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("kind", ["rank", "bins", "values"])
def test_cells_are_those_of_the_files_in_any_order(paths: list[Path], kind: str) -> None:
    shards, expected = make(paths, kind), in_memory(paths, kind)
    rng = np.random.default_rng(0)
    for rows in (np.arange(sum(N)), rng.permutation(sum(N)), np.array([60, 3, 3]), np.array([], dtype=int)):
        assert_same(shards[rows], expected[rows])
    shards.close()


def test_few_rows_are_read_at_once(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sfm.settings, "chunk_size", 7)
    shards = make(paths)
    assert_same(shards[np.arange(sum(N))], in_memory(paths, "rank"))
    shards.close()


def test_categories_are_those_of_all_files(paths: list[Path]) -> None:
    shards = make(paths, batch_key="donor", labels_key="cell_type")
    names = shards.categories["batch_index"].names
    assert names == (*(f"donor {i}" for i in range(1, 11)), "donor 20")  # in natural order
    codes = shards.columns["batch_index"]
    assert codes[:3].tolist() == [0, 1, 2]
    assert codes[N[0]] == -1
    assert set(codes[N[0] + 1 :]) == {10}
    labels = np.array(shards.categories["label_index"].names)[shards.columns["label_index"]]
    assert labels[: N[0]].tolist() == toy_cells(N[0]).obs["cell_type"].tolist()
    shards.close()


def content(path: Path) -> str:
    parts = sorted(path.rglob("*")) if path.is_dir() else [path]
    return hashlib.sha256(b"".join(p.name.encode() + p.read_bytes() for p in parts if p.is_file())).hexdigest()


def test_files_are_left_as_they_are(paths: list[Path], tmp_path: Path) -> None:
    before = [content(path) for path in paths]
    shards = make(paths, labels_key="cell_type")
    shards.to_cache(tmp_path / "cache")
    shards.close()
    assert [content(path) for path in paths] == before


def test_cache_holds_the_same_cells(paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sfm.settings, "window_size", 16)
    shards = make(paths, "values", batch_key="donor", labels_key="cell_type")
    cache = shards.to_cache(tmp_path / "cache")
    assert_same(cache[:], in_memory(paths, "values"))
    assert cache.categories == shards.categories
    for name, column in shards.columns.items():
        np.testing.assert_array_equal(cache.columns[name], column)
    assert cache.block_bounds(16).tolist() == shards.block_bounds(16).tolist()
    assert cache.place_of(N[0] + 3) == shards.place_of(N[0] + 3) == f"row 3 of {paths[1].name}"
    shards.refuse_other_cache(TokenCache(cache.path))
    with pytest.raises(ValueError, match="its settings are others"):
        make(paths, "values").refuse_other_cache(cache)
    with pytest.raises(ValueError, match="its tokenizer are others|its files and tokenizer"):
        make(paths, "rank", batch_key="donor", labels_key="cell_type").refuse_other_cache(cache)
    shards.close()


def test_changed_files_make_a_cache_outdated(tmp_path: Path) -> None:
    path = tmp_path / "cells.h5ad"
    toy_cells(20).write_h5ad(path)
    shards = make([path])
    cache = shards.to_cache(tmp_path / "cache")
    shards.close()
    toy_cells(21).write_h5ad(path)
    with pytest.raises(ValueError, match=r"its files are others, or have changed since. Pass another cache_dir="):
        make([path]).refuse_other_cache(cache)


def test_copies_open_the_files_themselves(paths: list[Path]) -> None:
    shards = make(paths)
    rows = np.array([70, 2])
    expected = shards[rows]
    copy = pickle.loads(pickle.dumps(shards))
    shards.close()
    assert_same(copy[rows], expected)
    assert_same(shards[rows], expected)  # closed files are opened again
    copy.close()
    shards.close()


@pytest.mark.parametrize("cached", [False, True])
def test_order_is_the_same_for_any_number_of_workers(paths: list[Path], cached: bool, tmp_path: Path) -> None:
    shards = make(paths, batch_key="donor")
    source = shards.to_cache(tmp_path / "cache") if cached else shards
    split = BlockSplit(source.block_bounds(8), validation_size=0.1, by="cells", seed=0)
    epochs = []
    for n_workers in (0, 2):
        sampler = BlockSampler(split, "train", batch_size=4, pool_size=16)
        loader = BlockLoader(source, sampler, pad_id=0, num_workers=n_workers)
        minibatches = list(loader)
        assert len(minibatches) == len(loader)
        epochs.append(minibatches)
        resumed = BlockLoader(source, BlockSampler(split, "train", batch_size=4, pool_size=16), pad_id=0)
        resumed.load_state_dict({"yielded": 7})
        assert [m["cell_index"].tolist() for m in resumed] == [m["cell_index"].tolist() for m in minibatches[7:]]
    for first, second in zip(*epochs, strict=True):
        assert set(first) == {"input_ids", "attention_mask", "cell_index", "batch_index"}
        assert all((first[name] == second[name]).all() for name in first)
        cells = shards[first["cell_index"].numpy()]
        assert first["attention_mask"].sum(dim=1).tolist() == cells.lengths.tolist()
        assert first["input_ids"][first["attention_mask"] == 1].tolist() == cells.input_ids.tolist()
        assert first["batch_index"].tolist() == shards.columns["batch_index"][first["cell_index"]].tolist()
    shards.close()


def broken(kind: str, folder: Path) -> list[Path]:
    adata = toy_cells(20)
    match kind:
        case "no cells":
            adata = adata[:0].copy()
        case "other genes":
            adata.var_names = [f"thing {i}" for i in range(adata.n_vars)]
        case "measurements":
            adata.obs["cell_type"] = np.linspace(0, 1, 20)
        case "no column":
            del adata.obs["cell_type"]
        case "not counts":
            adata.X = adata.X * 0.37
    adata.write_h5ad(folder / "bad.h5ad")
    toy_cells(20).write_h5ad(folder / "good.h5ad")
    return [folder / "good.h5ad", folder / "bad.h5ad"]


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("no cells", ValueError, "nothing to tokenize"),
        ("other genes", ValueError, "genes"),
        ("measurements", ValueError, "measurements rather than"),
        ("no column", KeyError, "Did not find obs\\['cell_type'\\]"),
        ("not counts", ValueError, "raw counts are needed"),
    ],
)
def test_errors_name_the_file(kind: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message) as caught:
        make(broken(kind, tmp_path), labels_key="cell_type")[np.arange(40)]
    assert any("bad.h5ad" in note for note in caught.value.__notes__)


def test_no_files_are_refused() -> None:
    with pytest.raises(ValueError, match="paths is empty"):
        make([])
