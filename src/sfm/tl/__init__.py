"""Tools: functions that add an annotation to the cells."""

from __future__ import annotations

from sfm.tl._annotate import annotate
from sfm.tl._annotate_genes import annotate_genes
from sfm.tl._embed import embed
from sfm.tl._embed_genes import embed_genes
from sfm.tl._log_likelihood import log_likelihood

__all__ = ["annotate", "annotate_genes", "embed", "embed_genes", "log_likelihood"]
