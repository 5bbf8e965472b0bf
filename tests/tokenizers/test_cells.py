"""The ragged container, and its layout in obsm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import sfm
from sfm.tokenizers import TokenizedCells

if TYPE_CHECKING:
    from pathlib import Path

LENGTHS = [3, 0, 1, 5, 0, 0, 2]


def make_cells(lengths: list[int], *, with_values: bool = True, seed: int = 0) -> TokenizedCells:
    rng = np.random.default_rng(seed)
    size = sum(lengths)
    values = rng.integers(0, 3, size).astype(np.float32)  # zeros are values too
    return TokenizedCells(
        rng.integers(1, 1000, size),
        np.append(0, np.cumsum(lengths)),
        values=values if with_values else None,
        max_length=6,
        metadata={"seed": seed, "kind": "made up"},
    )


def rows_of(cells: TokenizedCells) -> list[tuple[list[int], list[float] | None]]:
    spans = [slice(start, stop) for start, stop in zip(cells.indptr[:-1], cells.indptr[1:], strict=True)]
    values = cells.values
    return [(cells.input_ids[span].tolist(), None if values is None else values[span].tolist()) for span in spans]


@pytest.fixture(params=[True, False], ids=["values", "no values"])
def cells(request: pytest.FixtureRequest) -> TokenizedCells:
    return make_cells(LENGTHS, with_values=request.param)


def test_types(cells: TokenizedCells) -> None:
    assert (cells.input_ids.dtype, cells.indptr.dtype, cells.lengths.dtype) == (np.int32, np.int64, np.int64)
    assert cells.values is None or cells.values.dtype == np.float32
    assert cells.lengths.tolist() == LENGTHS
    assert len(cells) == len(LENGTHS)
    assert "7 cells, 11 tokens" in repr(cells)


@pytest.mark.parametrize("row", [0, 1, 3, 6, -1, -7, np.int32(2)])
def test_one_cell(cells: TokenizedCells, row: int) -> None:
    cell = cells[row]
    tokens, values = rows_of(cells)[row]
    assert isinstance(cell, sfm.TokenizedCellProtocol)
    assert (cell.input_ids.dtype, cell.attention_mask.dtype) == (torch.int64, torch.int64)
    assert cell.input_ids.tolist() == tokens
    assert cell.attention_mask.tolist() == [1] * len(tokens)
    assert (None if cell.values is None else cell.values.tolist()) == values
    assert cell.metadata == cells.metadata


def test_a_cell_shares_no_memory(cells: TokenizedCells) -> None:
    before = rows_of(cells)
    cell = cells[0]
    cell.input_ids[:] = -5
    cell.metadata["seed"] = None
    if cell.values is not None:
        cell.values[:] = -5
    assert rows_of(cells) == before
    assert cells.metadata["seed"] == 0


ROWS = [
    slice(None),
    slice(2, 5),
    slice(5, 2),
    slice(None, None, -1),
    slice(None, None, 2),
    [0, 0, -1, 3],
    [],
    np.array([6, 1], dtype=np.uint8),
    np.array([True, False, True, True, False, True, False]),
    [True] * 7,
    pd.Series([2, 4]),
]


@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_several_cells(cells: TokenizedCells, rows: object) -> None:
    numbers = np.arange(len(cells))[rows] if not isinstance(rows, list) or rows else []
    chosen = cells[rows]  # type: ignore[index]
    assert isinstance(chosen, TokenizedCells)
    assert rows_of(chosen) == [rows_of(cells)[i] for i in numbers]
    assert chosen.max_length == cells.max_length
    assert chosen.metadata == cells.metadata


def test_iteration_ends(cells: TokenizedCells) -> None:
    assert [cell.input_ids.tolist() for cell in cells] == [tokens for tokens, _ in rows_of(cells)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (7, "Cell 7 is out of range: there are 7 cells"),
        (-8, "Cell -8 is out of range"),
        ([0, 7], "Cell 7 is out of range"),
        (np.ones(6, dtype=bool), "mask of 6 values does not fit 7 cells"),
        ([0.5], "not 'float64'"),
        (np.zeros((2, 2), dtype=int), "one-dimensional"),
    ],
)
def test_bad_rows(cells: TokenizedCells, rows: object, message: str) -> None:
    with pytest.raises(IndexError, match=message):
        cells[rows]  # type: ignore[index]


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(0, 6), max_size=20), with_values=st.booleans())
def test_obsm_round_trip(lengths: list[int], *, with_values: bool) -> None:
    cells = make_cells(lengths, with_values=with_values)
    tokens, values = cells.to_obsm()
    assert (tokens.shape, tokens.dtype, tokens.indices.dtype) == ((len(lengths), 6), np.int32, np.int32)
    assert np.shares_memory(tokens.data, cells.input_ids) or not cells.input_ids.size
    for i, length in enumerate(lengths):
        assert tokens.indices[tokens.indptr[i] : tokens.indptr[i + 1]].tolist() == list(range(length))
    if values is not None:
        assert values.dtype == np.float32
        assert values.nnz == tokens.nnz
    again = TokenizedCells.from_obsm(tokens, values)
    assert rows_of(again) == rows_of(cells)
    assert again.max_length == 6


@pytest.mark.parametrize("fileformat", ["h5ad", "zarr"])
def test_obsm_survives_files_and_slicing(cells: TokenizedCells, fileformat: str, tmp_path: Path) -> None:
    tokens, values = cells.to_obsm()
    adata = anndata.AnnData(obs=pd.DataFrame(index=[f"cell{i}" for i in range(len(cells))]))
    adata.obsm["tokens"] = tokens
    if values is not None:
        adata.obsm["tokens_values"] = values
    path = tmp_path / f"cells.{fileformat}"
    getattr(adata, f"write_{fileformat}")(path)
    adata = getattr(anndata, f"read_{fileformat}")(path)
    order = [5, 0, 6, 3, 2]
    again = adata[order].copy()
    read = TokenizedCells.from_obsm(again.obsm["tokens"], again.obsm.get("tokens_values"))
    assert rows_of(read) == [rows_of(cells)[i] for i in order]
    view = adata[2:4]
    read = TokenizedCells.from_obsm(view.obsm["tokens"], view.obsm.get("tokens_values"))
    assert rows_of(read) == rows_of(cells)[2:4]


def test_from_obsm_takes_sparse_arrays_and_wider_integers(cells: TokenizedCells) -> None:
    tokens, values = cells.to_obsm()
    wide = sparse.csr_array(tokens.astype(np.int64))
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    assert rows_of(TokenizedCells.from_obsm(wide, None if values is None else sparse.csr_array(values))) == rows_of(
        cells
    )


def test_from_obsm_refuses_other_layouts() -> None:
    tokens, values = make_cells(LENGTHS).to_obsm()
    gap = tokens.copy()
    gap.indices = gap.indices.copy()
    gap.indices[2] = 4
    late = sparse.csr_matrix(np.array([[0, 3, 4]]))
    swapped = tokens.copy()
    swapped.indices = swapped.indices[::-1].copy()
    for wrong in (gap, late, swapped):
        with pytest.raises(ValueError, match=r"positions of the tokens .* Run sfm.pp.tokenize again"):
            TokenizedCells.from_obsm(wrong)
    for other in (tokens.toarray(), tokens.tocsc()):
        with pytest.raises(ValueError, match="not CSR"):
            TokenizedCells.from_obsm(other)
    pruned = values.copy()
    pruned.eliminate_zeros()
    with pytest.raises(ValueError, match="sfm.pp.tokenize again"):
        TokenizedCells.from_obsm(tokens, pruned)
    with pytest.raises(ValueError, match="does not have the positions of tokens"):
        TokenizedCells.from_obsm(tokens[1:], values[:-1])


@settings(max_examples=30, deadline=None)
@given(parts=st.lists(st.lists(st.integers(0, 6), max_size=5), min_size=1, max_size=5), with_values=st.booleans())
def test_concatenate(parts: list[list[int]], *, with_values: bool) -> None:
    pieces = [make_cells(lengths, with_values=with_values, seed=i) for i, lengths in enumerate(parts)]
    whole = TokenizedCells.concatenate(pieces)
    assert rows_of(whole) == [row for piece in pieces for row in rows_of(piece)]
    assert whole.metadata["kind"] == "made up"
    assert ("seed" in whole.metadata) == (len(parts) == 1)


def test_concatenate_refuses() -> None:
    with pytest.raises(ValueError, match="parts is empty"):
        TokenizedCells.concatenate([])
    with pytest.raises(ValueError, match="Only 1 of 2 parts have values"):
        TokenizedCells.concatenate([make_cells([1]), make_cells([1], with_values=False)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indptr": [0, 2]}, "rise from 0 to the number of tokens, 3"),
        ({"indptr": [1, 3]}, "runs from 1 to 3"),
        ({"indptr": [0, 3, 2, 3]}, "must rise"),
        ({"indptr": []}, "indptr"),
        ({"input_ids": [[1, 2, 3]]}, "one-dimensional"),
        ({"values": [1.0]}, r"values has shape \(1,\)"),
        ({"max_length": 2}, "A cell has 3 tokens, more than max_length=2"),
    ],
)
def test_parts_that_do_not_fit(change: dict[str, object], message: str) -> None:
    fields = {"input_ids": [1, 2, 3], "indptr": [0, 3], "values": None, "max_length": 3, **change}
    with pytest.raises(ValueError, match=message):
        TokenizedCells(**fields)  # type: ignore[arg-type]
