"""Making sure a function writes into data of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sfm._warn import warn

if TYPE_CHECKING:
    from anndata import AnnData


def own_data(adata: AnnData, *, copy: bool) -> AnnData:
    """Return `adata` or its copy; a view becomes actual data, with scanpy's warning, and one of a file is loaded."""
    if copy:
        return adata.copy()
    if adata.is_view:
        warn(f"Received a view of {'a backed' if adata.isbacked else 'an'} AnnData. Making a copy.")
        adata._init_as_actual(adata.to_memory() if adata.isbacked else adata.copy())
    return adata


def refuse_copy_of_file(adata: AnnData, *, copy: bool) -> None:
    """Raise, before any work, if a copy is asked of an AnnData whose matrix is in a file."""
    if copy and getattr(adata, "isbacked", False):
        msg = (
            "copy=True, but adata is backed by a file, and a copy would need another file. Leave copy out: results are "
            "written to adata in memory, not to the file. Or load it first: `adata.to_memory()`."
        )
        raise ValueError(msg)
