"""Torch modules: plain Hugging Face models that read tokenized cells.

Importing this module registers them with `AutoConfig`, `AutoModel` and the auto classes of their objectives.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModel

from sfm.nn._backbone import BACKBONES, backbone_config
from sfm.nn._causal import CausalCellOutput, CellForCausalLM
from sfm.nn._classification import CellForSequenceClassification, CellForTokenClassification
from sfm.nn._config import CellConfig
from sfm.nn._distance import ReferenceDistance
from sfm.nn._embedder import CellEmbedder
from sfm.nn._generation import EachGeneOnce
from sfm.nn._labelling import ClassifierOutput
from sfm.nn._likelihood import negative_binomial_log_likelihood, zero_inflated_log_likelihood
from sfm.nn._masked import CellForMaskedLM, MaskedCellOutput
from sfm.nn._masked_value import CellForMaskedValue, MaskedValueOutput
from sfm.nn._masking import HIDDEN_VALUE, counts_from_values, mask_tokens, mask_values
from sfm.nn._model import CellModel
from sfm.nn._multiple_choice import CellForMultipleChoice, MultipleChoiceOutput
from sfm.nn._objectives import OBJECTIVES, Objective, register_with_transformers
from sfm.nn._pair_prediction import CellForPairPrediction, PairPredictionOutput
from sfm.nn._pairs import join_pairs, sample_pairs
from sfm.nn._pooling import AttentionPooling, pool
from sfm.nn._pretrained import CellModelOutput, CellPreTrainedModel
from sfm.nn._pretraining import CellForPreTraining, PreTrainingOutput
from sfm.nn._question_answering import CellForQuestionAnswering, QuestionAnsweringOutput, best_spans
from sfm.nn._sequences import append_token, causal_labels, insert_token, stack_choices
from sfm.nn._with_head import CellModelWithHead

__all__ = [
    "BACKBONES",
    "HIDDEN_VALUE",
    "OBJECTIVES",
    "AttentionPooling",
    "CausalCellOutput",
    "CellConfig",
    "CellEmbedder",
    "CellForCausalLM",
    "CellForMaskedLM",
    "CellForMaskedValue",
    "CellForMultipleChoice",
    "CellForPairPrediction",
    "CellForPreTraining",
    "CellForQuestionAnswering",
    "CellForSequenceClassification",
    "CellForTokenClassification",
    "CellModel",
    "CellModelOutput",
    "CellModelWithHead",
    "CellPreTrainedModel",
    "ClassifierOutput",
    "EachGeneOnce",
    "MaskedCellOutput",
    "MaskedValueOutput",
    "MultipleChoiceOutput",
    "Objective",
    "PairPredictionOutput",
    "PreTrainingOutput",
    "QuestionAnsweringOutput",
    "ReferenceDistance",
    "append_token",
    "backbone_config",
    "best_spans",
    "causal_labels",
    "counts_from_values",
    "insert_token",
    "join_pairs",
    "mask_tokens",
    "mask_values",
    "negative_binomial_log_likelihood",
    "pool",
    "sample_pairs",
    "stack_choices",
    "zero_inflated_log_likelihood",
]

AutoConfig.register(CellConfig.model_type, CellConfig, exist_ok=True)
AutoModel.register(CellConfig, CellModel, exist_ok=True)
register_with_transformers()
