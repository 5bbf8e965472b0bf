"""The catalogue: one record per model, with no more than its authors say of it."""

from __future__ import annotations

from sfm.checkpoints._entries._elsewhere import ELSEWHERE
from sfm.checkpoints._entries._geneformer import GENEFORMER
from sfm.checkpoints._entries._hub import ON_THE_HUB
from sfm.checkpoints._sources import BundledSource, CatalogueEntry

__all__ = ["CATALOGUE"]

_MINI = CatalogueEntry(
    name="sfm-mini",
    family="sfm",
    source=BundledSource(),
    size=2_400_000,
    species="human",
    gene_ids="ensembl",
    context=511,
    dims=128,
    licence="BSD-3-Clause",
    commercial_use=True,
    description="Small model for trying things out, pretrained mostly on blood; see its card.",
)

CATALOGUE = (_MINI, *GENEFORMER, *ELSEWHERE, *ON_THE_HUB)
