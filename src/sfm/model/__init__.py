"""Models with scvi-tools' life cycle: `setup_anndata`, `train`, `get_latent_representation`, `save`, `load`."""

from __future__ import annotations

from sfm.model._causal import CausalCellModel
from sfm.model._classifier import CellClassifier
from sfm.model._gene_classifier import GeneClassifier
from sfm.model._masked import MaskedCellModel

__all__ = ["CausalCellModel", "CellClassifier", "GeneClassifier", "MaskedCellModel"]
