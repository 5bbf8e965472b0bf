"""Making sure a function writes into data of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sfm._warn import warn

if TYPE_CHECKING:
    from anndata import AnnData


def own_data(adata: AnnData, *, copy: bool) -> AnnData:
    """Return `adata` or its copy; a view becomes actual data, with scanpy's warning."""
    if copy:
        return adata.copy()
    if adata.is_view:
        warn("Received a view of an AnnData. Making a copy.")
        adata._init_as_actual(adata.copy())
    return adata
