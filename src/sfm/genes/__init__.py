"""Gene names: vocabularies of models, and matching the genes of a data set to them."""

from __future__ import annotations

from sfm.genes._align import align_genes
from sfm.genes._alignment import GeneAlignment
from sfm.genes._coverage import check_coverage
from sfm.genes._ids import id_styles
from sfm.genes._tables import GeneTables, SpeciesTables, gene_tables
from sfm.genes._vocabulary import GeneVocabulary

__all__ = [
    "GeneAlignment",
    "GeneTables",
    "GeneVocabulary",
    "SpeciesTables",
    "align_genes",
    "check_coverage",
    "gene_tables",
    "id_styles",
]
