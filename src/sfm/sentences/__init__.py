"""Cells as text: genes by falling count, for language models (Cell2Sentence, Levine et al. 2024, ICML)."""

from __future__ import annotations

from sfm.sentences._annotate import annotate
from sfm.sentences._cell_sentences import cell_sentences

__all__ = ["annotate", "cell_sentences"]
