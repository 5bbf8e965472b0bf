"""Torch modules: plain Hugging Face models that read tokenized cells.

Importing this module registers them with `AutoConfig`, `AutoModel` and `AutoModelForMaskedLM`.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from sfm.nn._backbone import BACKBONES, backbone_config
from sfm.nn._config import CellConfig
from sfm.nn._embedder import CellEmbedder
from sfm.nn._masked import CellForMaskedLM, MaskedCellOutput
from sfm.nn._masking import HIDDEN_VALUE, mask_tokens
from sfm.nn._model import CellModel, CellModelOutput, CellPreTrainedModel
from sfm.nn._pooling import pool
from sfm.nn._with_head import CellModelWithHead

__all__ = [
    "BACKBONES",
    "HIDDEN_VALUE",
    "CellConfig",
    "CellEmbedder",
    "CellForMaskedLM",
    "CellModel",
    "CellModelOutput",
    "CellModelWithHead",
    "CellPreTrainedModel",
    "MaskedCellOutput",
    "backbone_config",
    "mask_tokens",
    "pool",
]

AutoConfig.register(CellConfig.model_type, CellConfig, exist_ok=True)
AutoModel.register(CellConfig, CellModel, exist_ok=True)
AutoModelForMaskedLM.register(CellConfig, CellForMaskedLM, exist_ok=True)
