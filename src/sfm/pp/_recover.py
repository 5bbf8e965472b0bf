from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from sfm import _logging as logg
from sfm._docs import COPY, LAYER, doc_params
from sfm._keys import slot_name
from sfm._matrix import select_matrix
from sfm._state import input_state
from sfm._views import own_data

if TYPE_CHECKING:
    from anndata import AnnData

# The smallest value of a cell may stand for this many counts.
_MAX_SMALLEST = 5


@doc_params(layer=LAYER, copy=COPY)
def recover_counts(
    adata: AnnData,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    key_added: str = "counts",
    copy: bool = False,
) -> AnnData | None:
    """Restore counts from library-size normalised or log1p-normalised values.

    Library-size normalisation multiplies each cell by one factor. In nearly every cell some gene has a count of one,
    so the smallest value of the cell is that factor and dividing by it gives whole numbers back; where it does not,
    the smallest value is taken for a count of 2, 3, 4 or 5. Values that were logged (`log1p`, natural base) are
    brought back by `expm1` first. A cell for which no factor gives whole numbers stops the function.

    Parameters
    ----------
    adata
        Annotated data matrix whose values are normalised.
    {layer}
    use_raw
        Read `adata.raw` instead of `adata.X`; only genes that are also in `adata` are kept.
    key_added
        Layer to write.
    {copy}

    Returns
    -------
    Returns `None` if `copy=False`, else returns an `AnnData` object. Sets the following fields:

    `adata.layers['counts' | key_added]` : :class:`scipy.sparse.csr_matrix` (dtype `float32`, shape `(n_obs, n_vars)`)
        The counts, exact where the input was stored with enough digits. Input that was rounded to three decimals
        can be off by one in counts above about 150.

    Raises
    ------
    ValueError
        If the values are neither normalised nor log1p-normalised, or if they are no multiples of one factor per cell
        (scaled, batch-corrected, imputed, or logged to another base).

    Examples
    --------
    >>> import scanpy as sc
    >>> import sfm
    >>> adata = sc.datasets.pbmc68k_reduced()
    >>> sfm.pp.recover_counts(adata, use_raw=True)
    >>> float(adata.layers["counts"].max())
    259.0
    """
    key = slot_name(key_added, "counts")
    adata = own_data(adata, copy=copy)
    matrix = select_matrix(adata, layer=layer, use_raw=use_raw)
    blocks = [_chunk_counts(values, matrix.slot, first=rows.start) for rows, values in matrix.chunks()]
    counts = sparse.vstack(blocks, format="csr", dtype=np.float32)
    if use_raw:
        counts = counts[:, _columns_in_raw(adata)]
    adata.layers[key] = counts
    logg.info(f"restored counts from {matrix.slot}", deep=f"added\n    {key!r}, counts (adata.layers)")
    return adata if copy else None


def _columns_in_raw(adata: AnnData) -> np.ndarray:
    columns = adata.raw.var_names.get_indexer(adata.var_names)
    if (columns < 0).any():
        missing = adata.var_names[columns < 0][:3].tolist()
        msg = f"{(columns < 0).sum()} genes of adata.var_names are not in adata.raw.var_names, such as {missing!r}."
        raise ValueError(msg)
    return columns


def _chunk_counts(values: sparse.csr_matrix, slot: str, *, first: int) -> sparse.csr_matrix:
    state = input_state(values)
    if state.kind == "counts":
        return values
    if state.kind not in ("normalized", "log1p"):
        msg = f"{slot} holds {state.describe()}; counts can be restored from normalised or log1p values only."
        raise ValueError(msg)
    linear = values.astype(np.float64)  # a copy: the caller's values stay
    if state.kind == "log1p":
        np.expm1(linear.data, out=linear.data)
    linear.eliminate_zeros()
    counts, whole = _divide_by_unit(linear)
    if not whole.all():
        cell = int(np.flatnonzero(~whole)[0])
        msg = (
            f"{slot}: the values of {np.count_nonzero(~whole)} cells (first: row {first + cell}) are not multiples of "
            "one factor per cell, so they were not made from counts by library-size normalisation alone. "
            "Pass the slot that holds counts instead."
        )
        raise ValueError(msg)
    linear.data = counts
    return linear


def _divide_by_unit(linear: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return whole counts per stored value, and per cell whether its values fitted."""
    lengths = np.diff(linear.indptr)
    expressed = np.flatnonzero(lengths)
    counts, whole = np.zeros(linear.nnz), np.ones(linear.shape[0], dtype=bool)
    if not expressed.size:
        return counts, whole
    starts = linear.indptr[expressed]
    smallest = np.minimum.reduceat(linear.data, starts)
    multiples = linear.data / np.repeat(smallest, lengths[expressed])
    open_cells = np.ones(expressed.size, dtype=bool)
    for smallest_count in range(1, _MAX_SMALLEST + 1):
        candidate = multiples * smallest_count
        rounded = np.rint(candidate)
        # Rounded input moves a value in proportion to its size, so the tolerance grows with it; the cap keeps
        # values that are no counts at all (imputed, smoothed) from passing as large ones.
        off = np.abs(candidate - rounded) > np.minimum(0.01 + 2e-3 * candidate, 0.2)
        fits = open_cells & (np.add.reduceat(off, starts, dtype=np.int64) <= 0.01 * lengths[expressed])
        counts = np.where(np.repeat(fits, lengths[expressed]), rounded, counts)
        open_cells &= ~fits
    whole[expressed[open_cells]] = False
    return counts, whole
