"""Where results about genes go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from anndata import AnnData


def token_ids_of_var(adata: AnnData, read: np.ndarray, *, use_raw: bool) -> np.ndarray:
    """Token id of each gene of `adata.var`, where `read` has those of the matrix that was read."""
    if not use_raw:
        return read
    raw_names = pd.Index(adata.raw.var_names)
    # Of columns with one name the first that the model knows.
    order = np.argsort(read < 0, kind="stable")
    first = ~raw_names[order].duplicated()
    of_name = pd.Series(read[order][first], index=raw_names[order][first])
    if not adata.var_names.isin(of_name.index).any():
        msg = (
            f"None of the {adata.n_vars} genes of adata.var_names is in adata.raw.var_names, so there is nowhere to write "
            "results from adata.raw to. Pass `adata.raw.to_adata()`."
        )
        raise ValueError(msg)
    return of_name.reindex(adata.var_names, fill_value=-1).to_numpy()
