from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sfm.files._assembly import build, move_into_place, remove

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from anndata import AnnData

    from sfm.files._paths import FilePaths


def write_results(paths: FilePaths, adata: AnnData, *, obsm: Sequence[str], uns: str, copy_input: bool) -> None:
    """Write obs and the slots that a function added, as far as they are there, under the final name once complete."""
    import anndata as ad

    def fill(root: Any) -> None:
        ad.io.write_elem(root, "obs", adata.obs)
        for key in obsm:
            if key in adata.obsm:
                ad.io.write_elem(root["obsm"], key, adata.obsm[key])
        ad.io.write_elem(root["uns"], uns, dict(adata.uns[uns]))

    new = paths.out.with_name(f"{paths.out.stem}.{os.getpid()}.new{paths.out.suffix}")
    replaced = paths.out.with_name(f"{paths.out.stem}.{os.getpid()}.replaced{paths.out.suffix}")
    try:
        build(new, adata.obs, fill, source=paths.source, copy_input=copy_input)
        move_into_place(new, paths.out, replaced=replaced)
    finally:
        remove(new)
        remove(replaced)
