"""What became of each gene of a data set in a vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

#: How a gene can be matched, or why it was not.
FATES = (
    "exact",
    "model_alias",
    "version_stripped",
    "via_symbol",
    "via_ensembl_id",
    "previous_symbol",
    "ortholog",
    "made_unique",
    "other_species",
    "unknown",
)
_BASIS = {"expression": "of the expected expression", "counts": "of the counts", "genes": "of the vocabulary's genes"}


@dataclass(frozen=True, eq=False)
class GeneAlignment:
    """The genes of a data set, matched to a vocabulary; :func:`~sfm.genes.align_genes` makes it."""

    token_ids: np.ndarray
    """Token id of each gene, int32 of shape `(n_vars,)`; -1 = unknown."""
    fate: pd.DataFrame
    """One row per gene, indexed by name: `id_style`, `fate`, `gene` (id in the vocabulary, or `''`), `token_id`, and
    `duplicate` (another gene has the same token; their counts are summed)."""
    id_style: str
    """Style of most names: `"symbol"`, `"ensembl"`, `"ensembl_versioned"` or `"mixed"`."""
    species: str | None
    """Species of the names: `"human"`, `"mouse"`, another Ensembl prefix, or `None` where unknown."""
    coverage: float
    """Share of what the vocabulary expects that was found, from 0 to 1; see `coverage_of`."""
    coverage_of: str
    """What `coverage` is a share of: `"expression"` the vocabulary expects, `"counts"` of the data, or `"genes"` of the
    vocabulary."""
    n_known: int
    """Number of genes of the data that the vocabulary knows."""
    vocabulary_species: str | None = None
    """Species of the vocabulary."""

    def __len__(self) -> int:
        return len(self.token_ids)

    def describe_names(self) -> str:
        """Return style and species of the names in words."""
        style = {"symbol": "gene symbols", "ensembl": "Ensembl ids", "ensembl_versioned": "Ensembl ids with version"}
        return f"{style.get(self.id_style, 'mixed names')} of {self.species or 'unknown'} species"

    def describe_coverage(self) -> str:
        """Return the number of known genes and the coverage in words."""
        percent = f"{100 * self.coverage:.1f} %"
        return f"{self.n_known} of {len(self)} genes known, {percent} {_BASIS[self.coverage_of]}"

    def summary(self) -> str:
        """Return one line for logs."""
        counts = self.fate["fate"].value_counts(sort=False)
        fates = ", ".join(f"{n} {fate}" for fate, n in counts.items() if n)
        return f"{self.describe_coverage()}; {self.describe_names()} ({fates})"

    def params(self) -> dict[str, bool | int | float | str]:
        """Return provenance for `uns`: plain values that h5ad and zarr can hold."""
        from sfm.genes._tables import gene_tables

        return {
            "id_style": self.id_style,
            "species": self.species or "",
            "n_genes": len(self),
            "n_genes_known": self.n_known,
            "n_genes_duplicate": int(self.fate["duplicate"].sum()),
            "coverage": float(self.coverage),
            "coverage_of": self.coverage_of,
            "gene_tables": gene_tables().version,
        }
