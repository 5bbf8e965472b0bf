"""Embedding window by window: the same vectors as all at once, in memory that others own if they wish."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sfm
from sfm.data import open_cells, stream_cells
from sfm.datasets import toy_cells, toy_model
from sfm.inference._cells import embed_cells, embed_windows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sfm.checkpoints import PretrainedCells

TOLERANCE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def pretrained() -> PretrainedCells:
    return toy_model("values")


@pytest.fixture(scope="module")
def reference(pretrained: PretrainedCells) -> np.ndarray:
    """Vectors of all cells in one window."""
    return embed_cells(pretrained, toy_cells(60)).vectors


def windows_of(n_cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sfm.settings, "window_size", n_cells)


@settings(max_examples=10)
@given(window=st.integers(1, 70), rows=st.permutations(range(60)))
def test_windows_do_not_matter(
    pretrained: PretrainedCells, reference: np.ndarray, window: int, rows: list[int]
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        windows_of(window, monkeypatch)
        adata = toy_cells(60)[rows].copy()
        np.testing.assert_allclose(embed_cells(pretrained, adata).vectors, reference[rows], **TOLERANCE)


def test_vectors_go_where_they_are_wanted(
    pretrained: PretrainedCells, reference: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows_of(16, monkeypatch)
    toy_cells(60).write_h5ad(tmp_path / "cells.h5ad")
    out = np.memmap(tmp_path / "vectors", dtype=np.float32, mode="w+", shape=reference.shape)
    with open_cells(tmp_path / "cells.h5ad") as adata:
        result = embed_cells(pretrained, adata, out=out)
    assert np.shares_memory(result.vectors, out)
    np.testing.assert_allclose(
        np.fromfile(tmp_path / "vectors", dtype=np.float32).reshape(60, -1), reference, **TOLERANCE
    )


@pytest.mark.parametrize(("shape", "dtype"), [((60, 15), np.float32), ((59, 16), np.float32), ((60, 16), np.float64)])
def test_other_shapes_are_named(shape: tuple[int, int], dtype: type, pretrained: PretrainedCells) -> None:
    out = np.zeros(shape, dtype=dtype)
    with pytest.raises(ValueError, match=r"out has shape .* the vectors are float32 of shape \(60, 16\)"):
        embed_cells(pretrained, toy_cells(60), out=out)
    assert not out.any()


def test_windows_and_empty_cells(
    pretrained: PretrainedCells, reference: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows_of(16, monkeypatch)
    adata = toy_cells(60)
    adata.X = adata.X.toarray()
    adata.X[[3, 20, 21]] = 0
    stream = stream_cells(adata, pretrained.tokenizer, model_name="toy")
    parts = list(embed_windows(pretrained, stream, start=16, stop=48))
    assert [rows for rows, _, _ in parts] == [slice(16, 32), slice(32, 48)]
    is_empty = np.concatenate([empty for _, _, empty in parts])
    assert np.flatnonzero(is_empty).tolist() == [4, 5]
    vectors = np.concatenate([part for _, part, _ in parts])
    np.testing.assert_allclose(vectors[~is_empty], reference[16:48][~is_empty], **TOLERANCE)
    assert np.array_equal(vectors[4], vectors[5])


def test_empty_cells_of_all_windows_are_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    windows_of(16, monkeypatch)
    adata = toy_cells(60)
    adata.X = adata.X.toarray()
    adata.X[[3, 20, 21]] = 0
    with pytest.warns(UserWarning, match="3 of 60 cells have no count on a known gene") as record:
        sfm.tl.embed(adata, toy_model())
    assert len(record) == 1
    assert adata.uns["X_sfm"]["params"]["n_empty_cells"] == 3


class Recorded:
    """A model that says what it was given and in which mode."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.lengths = model, []

    def forward(self, *arguments: Any, **options: Any) -> Any:
        return self.model(*arguments, **options)

    def encode(self, input_ids: Any, attention_mask: Any, values: Any = None, **_: Any) -> Any:
        self.lengths.append(attention_mask.sum(dim=1).tolist())
        assert torch.is_inference_mode_enabled()
        return self.model.encode(input_ids, attention_mask, values)


def test_every_cell_is_computed_once(pretrained: PretrainedCells, monkeypatch: pytest.MonkeyPatch) -> None:
    windows_of(16, monkeypatch)
    model = Recorded(pretrained.model)
    adata = toy_cells(60)
    sfm.tl.embed(adata, model, tokenizer=pretrained.tokenizer)
    sfm.pp.tokenize(adata, pretrained)
    assert sorted(sum(model.lengths, [])) == sorted(adata.obsm["tokens"].getnnz(axis=1).tolist())


def test_the_thread_of_the_caller_is_left_as_it_was(
    pretrained: PretrainedCells, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows_of(16, monkeypatch)
    pretrained.model.train()
    stream = stream_cells(toy_cells(60), pretrained.tokenizer, model_name="toy")
    for _ in embed_windows(pretrained, stream):
        assert not torch.is_inference_mode_enabled()
        assert torch.get_float32_matmul_precision() == "highest"
    assert pretrained.model.training
    pretrained.model.eval()


@pytest.fixture
def no_delay(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("sfm.inference._loop._PROGRESS_DELAY", 0.0)
    before = sc.settings.logfile
    sc.settings.logfile = StringIO()
    yield
    sc.settings.logfile = before


@pytest.mark.usefixtures("no_delay")
def test_one_progress_bar_for_all_windows(
    pretrained: PretrainedCells, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    windows_of(16, monkeypatch)
    sfm.tl.embed(toy_cells(60), pretrained)
    lines = capsys.readouterr().err.replace("\r", "\n").split("\n")
    bars = [line for line in lines if "Embedding" in line]
    assert bars
    assert all("/60 " in line for line in bars)
    assert "60/60" in bars[-1]


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_a_backed_view_is_loaded_when_it_is_written_to(
    suffix: str, pretrained: PretrainedCells, reference: np.ndarray, tmp_path: Path
) -> None:
    getattr(toy_cells(60), f"write_{suffix}")(tmp_path / f"cells.{suffix}")
    rows = [5, 3, 40]
    if suffix == "h5ad":
        adata = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
        view = adata[rows]
        with pytest.warns(UserWarning, match="view of a backed AnnData. Making a copy"):
            sfm.tl.embed(view, pretrained)
        adata.file.close()
    else:
        with open_cells(tmp_path / "cells.zarr") as adata:
            view = adata[rows]
            with pytest.warns(UserWarning, match="Received a view of an AnnData"):
                sfm.tl.embed(view, pretrained)
    assert not adata.obsm
    assert not view.is_view
    np.testing.assert_allclose(view.obsm["X_sfm"], reference[rows], **TOLERANCE)


@pytest.mark.parametrize("function", [sfm.tl.embed, sfm.pp.tokenize])
def test_a_copy_of_a_backed_file_is_refused_before_any_work(function: Any, tmp_path: Path) -> None:
    toy_cells(60).write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    with pytest.raises(ValueError, match=r"copy=True, but adata is backed by a file.*adata.to_memory\(\)"):
        function(backed, "no such model", copy=True)
    backed.file.close()
