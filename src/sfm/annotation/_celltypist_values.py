"""What values a CellTypist model can be applied to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sfm._state import check_input_state, wrong_state
from sfm._warn import warn
from sfm.annotation._celltypist_scores import TARGET_SUM

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy import sparse

    from sfm._matrix import CountMatrix
    from sfm._state import InputState, StateKind

_ACCEPTED: tuple[StateKind, ...] = ("counts", "log1p")
_LARGEST_LOG1P = 9.22  # as CellTypist has it: log1p of 10,000 is 9.2104
_PROBE_ROWS = 256


def check_values(
    adata: AnnData, matrix: CountMatrix, values: sparse.csr_matrix, *, before: InputState | None
) -> InputState | None:
    """Return the state of the rows so far, or raise: counts, or log1p of counts scaled to 10,000 per cell, throughout.

    Parameters
    ----------
    adata
        The data that `matrix` is from.
    matrix
        The matrix that is read.
    values
        Some of its rows.
    before
        State of the rows before, `None` if there were none or all were empty.
    """
    state = check_input_state(adata, matrix, values, requires=_ACCEPTED)
    if not values.data.any():  # empty cells tell nothing
        return before
    if before is not None and before.kind != state.kind:
        msg = (
            f"{matrix.slot} holds {before.describe()} in some rows and {state.describe()} in others. "
            "Bring all cells to the same state first, best to counts."
        )
        raise ValueError(msg)
    if state.kind != "log1p":
        return state
    largest = float(values.data.max())
    if largest > _LARGEST_LOG1P:
        found = (
            f"{matrix.slot} holds values up to {largest:.2f}, but CellTypist models take log1p of counts scaled to "
            f"{TARGET_SUM:,.0f} per cell, which ends at 9.21. Run `sc.pp.normalize_total(adata, target_sum=1e4)` and "
            "`sc.pp.log1p(adata)` on counts, or pass the counts"
        )
        raise wrong_state(adata, matrix, state, found=found)
    if before is None:
        _warn_of_other_totals(values, matrix)
    return state


def _warn_of_other_totals(values: sparse.csr_matrix, matrix: CountMatrix) -> None:
    """CellTypist looks at the first cell and warns too; genes that were left out before are the usual reason."""
    head = values[:_PROBE_ROWS].astype(np.float64)
    np.expm1(head.data, out=head.data)
    totals = np.asarray(head.sum(axis=1)).ravel()
    is_other = (np.abs(totals - TARGET_SUM) > 1) & (totals > 0)
    if is_other.any():
        msg = (
            f"{matrix.slot} holds log1p values, but {is_other.sum()} of the first {len(totals)} cells do not add up to "
            f"{TARGET_SUM:,.0f} on the linear scale (median {np.median(totals):,.0f}): genes were left out after "
            "normalisation, or it was to another sum. CellTypist models were trained on log1p of all counts scaled to "
            f"{TARGET_SUM:,.0f} per cell, so labels may be less accurate. Pass the slot with counts of all genes if "
            "you have it."
        )
        warn(msg)
