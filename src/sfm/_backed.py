"""Writing results into an AnnData whose matrices may be in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sfm._views import own_data
from sfm._warn import warn

if TYPE_CHECKING:
    from anndata import AnnData


def refuse_copy_of_file(adata: AnnData, *, copy: bool) -> None:
    """Raise, before any work, if a copy is asked of an AnnData whose matrix is in a file."""
    if copy and getattr(adata, "isbacked", False):
        msg = (
            "copy=True, but adata is backed by a file, and a copy would need another file. Leave copy out: results are "
            "written to adata in memory, not to the file. Or load it first: `adata.to_memory()`."
        )
        raise ValueError(msg)


def writable(adata: AnnData, *, copy: bool) -> AnnData:
    """Return what results are written into; as `own_data`, but a view of a file is loaded."""
    if adata.isbacked and adata.is_view:
        warn("Received a view of a backed AnnData. Loading its cells into memory.")
        adata._init_as_actual(adata.to_memory())
        return adata
    return own_data(adata, copy=copy)
