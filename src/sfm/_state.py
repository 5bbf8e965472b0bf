"""The input-state gate: what kind of values a matrix holds, and whether a model can use them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakValueDictionary

import numpy as np

from sfm._matrix import select_matrix
from sfm._warn import warn

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy import sparse

    from sfm._matrix import CountMatrix

    #: Name of a matrix, and the options that select it.
    Slot = tuple[str, dict[str, str | bool]]

StateKind = Literal["counts", "almost_counts", "normalized", "log1p", "scaled", "negative", "not_finite"]

# expm1 of 20 is 4.9e8, more than any library size; linear normalised values exceed it in almost every cell.
_LOG1P_MAX = 20.0
_NEAR_INTEGER = 1e-3
_PROBE_ROWS = 256
# Of as many counts some are above one however shallow the sequencing: already one in a hundred would leave a chance of
# 1e-22 of seeing none.
_MANY_ONES = 5_000
# By their id: one call may look at a matrix several times.
_WARNED_OF: WeakValueDictionary[int, Any] = WeakValueDictionary()
_NEEDED = {"counts": "raw counts", "log1p": "log1p-normalised values"}
_BLOCK = 1 << 16


@dataclass(frozen=True)
class InputState:
    """What the stored values of a matrix look like.

    `kind` is the state; `example` is the value that decided it (a non-integer, the negative one, the largest);
    `share` is the fraction of stored values that are like the example, and `row` the first row that has one, `None` where
    all rows are alike.
    """

    kind: StateKind
    n_values: int
    example: float
    share: float
    row: int | None = None

    def fits(self, accepted: tuple[StateKind, ...]) -> bool:
        """Whether this is one of some states, as an empty matrix always is."""
        return self.kind in accepted or self.n_values == 0

    @property
    def looks_binarised(self) -> bool:
        """Whether these are too many ones to be counts of molecules or reads."""
        return self.kind == "counts" and self.example == 1 and self.n_values >= _MANY_ONES

    def describe(self) -> str:
        """Say in words what was seen."""
        seen = {
            "counts": "counts",
            "almost_counts": f"almost integers ({_percent(self.share)} of the values are not whole, such as {self.example!r})",
            "normalized": f"normalised values (not whole, such as {self.example!r})",
            "log1p": f"log1p-normalised values (not whole, such as {self.example!r})",
            "scaled": f"scaled values (negative and not whole, such as {self.example!r})",
            "negative": f"negative values (such as {self.example!r})",
            "not_finite": f"values that are NaN or infinite ({_percent(self.share)} of the stored ones)",
        }
        return seen[self.kind]


def _percent(share: float) -> str:
    return f"{share:.2%}" if share >= 1e-4 else "less than 0.01%"


def input_state(X: sparse.csr_matrix) -> InputState:
    """Classify the stored values of a CSR matrix; an empty one counts as counts."""
    data = X.data
    if data.size == 0 or data.dtype.kind in "ub":
        return InputState("counts", data.size, float(data.max(initial=0)), 1.0)
    low, high = float(data.min()), float(data.max())  # NaN anywhere makes both NaN
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = ~np.isfinite(data)
        return InputState("not_finite", data.size, float(data[bad][0]), float(bad.mean()), _first_row(X, bad))
    whole = data.dtype.kind == "i" or _all_whole(data)
    if low < 0:
        below = data < 0
        kind: StateKind = "negative" if whole else "scaled"
        return InputState(kind, data.size, low, float(below.mean()), _first_row(X, below))
    if whole:
        return InputState("counts", data.size, high, 1.0)
    return _fractional_state(X, high)


def _first_row(X: sparse.csr_matrix, found: np.ndarray) -> int:
    """Return the first row with a stored value that is marked."""
    return int(np.searchsorted(X.indptr, found.argmax(), side="right")) - 1


def _all_whole(data: np.ndarray) -> bool:
    """Whether all values are whole numbers, looked at in blocks that stay in the cache."""
    blocks = (data[start : start + _BLOCK] for start in range(0, data.size, _BLOCK))
    return all(np.array_equal(np.rint(block), block) for block in blocks)


def _fractional_state(X: sparse.csr_matrix, high: float) -> InputState:
    data = X.data
    distance = np.abs(data - np.rint(data))
    fractional = distance > 0
    example, share = float(data[fractional.argmax()]), float(fractional.mean())
    if float((distance > _NEAR_INTEGER).mean()) < 0.1 and high > 1:
        return InputState("almost_counts", data.size, example, share, _first_row(X, fractional))
    is_log1p = high <= _LOG1P_MAX and (not _equal_sums(X) or _equal_sums(X.expm1()))  # both: the cells are equal
    kind: StateKind = "log1p" if is_log1p else "normalized"
    return InputState(kind, data.size, example, share)


def _equal_sums(X: sparse.csr_matrix) -> bool:
    sums = np.asarray(X.sum(axis=1), dtype=np.float64).ravel()
    sums = sums[sums > 0]
    return sums.size > 1 and float(sums.std()) < 1e-3 * float(sums.mean())


def check_input_state(
    adata: AnnData,
    matrix: CountMatrix,
    values: sparse.csr_matrix,
    *,
    requires: StateKind | tuple[StateKind, ...] = "counts",
    start: int | None = None,
) -> InputState:
    """Return the state of `values` (rows of `matrix` from `start`), or raise if it is not (one of those) required.

    Every function that reads expression passes each chunk it reads through here.

    Raises
    ------
    ValueError
        If the state is another one. The message names the slot and the values seen, and the call that fixes it:
        another slot of `adata` that holds what is required, or how to restore counts.
    """
    state = input_state(values)
    refuse_state(adata, matrix, state, requires=requires, start=start)
    return state


def refuse_state(
    adata: AnnData,
    matrix: CountMatrix,
    state: InputState,
    *,
    requires: StateKind | tuple[StateKind, ...],
    start: int | None = None,
) -> None:
    """Raise if a state, perhaps found elsewhere, is not (one of those) required; `start` is the first row looked at.

    Counts that look binarised are accepted, with one warning for each matrix.
    """
    accepted = (requires,) if isinstance(requires, str) else requires
    if state.fits(accepted):
        if start == 0 and state.looks_binarised:
            _warn_of_ones(matrix, state)
        return
    needed = " or ".join(_NEEDED.get(kind, f"{kind} values") for kind in accepted)
    where = "" if start is None or state.row is None else f", first in cell {adata.obs_names[start + state.row]!r}"
    found = f"{matrix.slot} holds {state.describe()}{where}, but {needed} are needed"
    raise wrong_state(adata, matrix, state, found=found, accepted=accepted)


def _warn_of_ones(matrix: CountMatrix, state: InputState) -> None:
    key = id(matrix.X)
    if _WARNED_OF.get(key) is matrix.X:
        return
    with suppress(TypeError):  # not all kinds of matrices can be referred to weakly
        _WARNED_OF[key] = matrix.X
    warn(
        f"None of the {state.n_values:,} values that were looked at in {matrix.slot} is above 1: it looks binarised, and "
        "results differ from those of counts. Pass layer= or use_raw= if another slot holds the counts."
    )


def wrong_state(
    adata: AnnData,
    matrix: CountMatrix,
    state: InputState,
    *,
    found: str,
    accepted: tuple[StateKind, ...] = ("counts",),
) -> ValueError:
    """Return the error for a matrix whose values are not what is needed, with the call that fixes it."""
    return ValueError(f"{found}. {_remedy(adata, matrix, state, accepted)}")


def _remedy(adata: AnnData, matrix: CountMatrix, state: InputState, accepted: tuple[StateKind, ...]) -> str:
    """Name the call that gets the right values to the function: another slot, rounding, or restoring counts."""
    others = [(slot, options) for slot, options in slots(adata) if slot != matrix.slot]
    kinds = [probe(adata, options) for _, options in others]
    for wanted in accepted:
        for (slot, options), kind in zip(others, kinds, strict=True):
            if kind == wanted:
                what = _NEEDED.get(kind, f"{kind} values").removeprefix("raw ")
                return f"{slot} holds {what}: pass {arguments(options) or 'neither layer= nor use_raw='}."
    if state.kind == "not_finite":
        return "Leave out the cells or genes that hold them, or read the data again from before they came about."
    own = [(slot, options) for slot, options in slots(adata) if slot == matrix.slot]
    known = [*zip(own, [state.kind], strict=False), *zip(others, kinds, strict=True)]
    if "counts" not in accepted:
        return _how_to_log1p(known)
    if state.kind == "almost_counts":
        return (
            "If they are counts up to rounding, store whole numbers: `adata.layers['counts'] = adata.X.copy()`, "
            "`adata.layers['counts'].data = adata.layers['counts'].data.round()`, and pass layer='counts' "
            "(a dense matrix: `np.rint(adata.X)`)."
        )
    candidates = [named for named, kind in known if kind in ("normalized", "log1p")]
    if candidates:
        slot, options = candidates[0]
        call = f"sfm.pp.recover_counts({', '.join(filter(None, ['adata', arguments(options)]))})"
        return (
            f"No slot holds counts, but `{call}` restores them from {slot} into layers['counts']: pass layer='counts'."
        )
    return "No slot of this AnnData holds counts: read the data again from before it was changed."


def _how_to_log1p(known: list[tuple[Slot, StateKind | None]]) -> str:
    """Name the calls that make log1p-normalised values of counts or normalised values."""
    made_of = {kind: named for named, kind in reversed(known)}
    kind: StateKind = "counts" if "counts" in made_of else "normalized"
    if kind not in made_of:
        return "No slot of this AnnData holds them, or counts to make them from: read the data again from before it was changed."
    slot, options = made_of[kind]
    name, layer = "adata", ", layer='log1p'"
    start, then = f"adata.layers['log1p'] = {slot}.copy()", "pass layer='log1p'"
    if "use_raw" in options:  # which may have other genes
        name, layer = "log1p", ""
        start, then = "log1p = adata.raw.to_adata()", "pass log1p instead of adata"
    normalise = f"`sc.pp.normalize_total({name}, target_sum=1e4{layer})`, " if kind == "counts" else ""
    return f"No slot holds them, but they can be made from {slot}: `{start}`, {normalise}`sc.pp.log1p({name}{layer})`, and {then}."


def slots(adata: AnnData) -> list[Slot]:
    """Name every matrix of `adata`, with the options that select it."""
    found: list[Slot] = [("adata.X", {})] if adata.X is not None else []
    found += [(f"adata.layers[{name!r}]", {"layer": name}) for name in adata.layers]
    found += [("adata.raw.X", {"use_raw": True})] if adata.raw is not None else []
    return found


def arguments(options: dict[str, str | bool]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


def probe(adata: AnnData, options: dict[str, str | bool]) -> StateKind | None:
    """State of the first rows of a slot, None where it cannot be read."""
    try:
        return input_state(select_matrix(adata, **options).head(_PROBE_ROWS)).kind  # type: ignore[arg-type]
    except (NotImplementedError, ValueError, TypeError):
        return None
