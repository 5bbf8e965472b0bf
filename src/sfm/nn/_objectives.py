"""The objectives, one row each; the table in the documentation is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForNextSentencePrediction,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from sfm.nn._causal import CellForCausalLM
from sfm.nn._classification import CellForSequenceClassification, CellForTokenClassification
from sfm.nn._config import CellConfig
from sfm.nn._masked import CellForMaskedLM
from sfm.nn._masked_value import CellForMaskedValue
from sfm.nn._multiple_choice import CellForMultipleChoice
from sfm.nn._pair_prediction import CellForPairPrediction
from sfm.nn._pretraining import CellForPreTraining
from sfm.nn._question_answering import CellForQuestionAnswering

if TYPE_CHECKING:
    from sfm.nn._with_head import CellModelWithHead

Need = Literal["causal backbone", "values", "token types"]


@dataclass(frozen=True)
class Objective:
    """What a cell model can be trained for.

    Parameters
    ----------
    name
        Name in the registry.
    model
        Class of the model.
    auto_class
        Class of transformers that loads it by its configuration, `None` where there is none that fits.
    labels
        Arguments of `forward` that together give the loss.
    description
        What it does for cells.
    needs
        What its configuration must have.
    """

    name: str
    model: type[CellModelWithHead]
    auto_class: type | None
    labels: tuple[str, ...]
    description: str
    needs: tuple[Need, ...] = ()


_ROWS = (
    Objective(
        "masked genes",
        CellForMaskedLM,
        AutoModelForMaskedLM,
        ("labels",),
        "Predicts hidden genes from the rest of the cell; their values are hidden too.",
    ),
    Objective(
        "masked values",
        CellForMaskedValue,
        None,
        ("labels",),
        "Predicts hidden expression of visible genes: squared error, or a (zero-inflated) negative binomial.",
        ("values",),
    ),
    Objective(
        "next gene",
        CellForCausalLM,
        AutoModelForCausalLM,
        ("labels",),
        "Predicts each gene from those ranked before it, and generates new cells.",
        ("causal backbone",),
    ),
    Objective(
        "pretraining",
        CellForPreTraining,
        AutoModelForPreTraining,
        ("labels", "pair_labels"),
        "Predicts hidden genes, and whether two cells belong together; the losses are added.",
        ("token types",),
    ),
    Objective(
        "pairs",
        CellForPairPrediction,
        AutoModelForNextSentencePrediction,
        ("labels",),
        "Predicts whether two cells belong together, read jointly or compared by cosine or contrast.",
        ("token types",),
    ),
    Objective(
        "cell labels",
        CellForSequenceClassification,
        AutoModelForSequenceClassification,
        ("labels",),
        "Predicts one label per cell or per sample of cells, several, or numbers.",
    ),
    Objective(
        "gene labels",
        CellForTokenClassification,
        AutoModelForTokenClassification,
        ("labels",),
        "Predicts a label of each gene in the context of its cell.",
    ),
    Objective(
        "span",
        CellForQuestionAnswering,
        AutoModelForQuestionAnswering,
        ("start_positions", "end_positions"),
        "Finds the contiguous run of ranked genes that answers a condition token.",
    ),
    Objective(
        "choice",
        CellForMultipleChoice,
        AutoModelForMultipleChoice,
        ("labels",),
        "Chooses which of some candidate cells follows.",
    ),
)

#: The objectives by name.
OBJECTIVES: dict[str, Objective] = {row.name: row for row in _ROWS}


def register_with_transformers() -> None:
    """Let the auto classes of transformers find the models."""
    for objective in OBJECTIVES.values():
        if objective.auto_class is not None:
            objective.auto_class.register(CellConfig, objective.model, exist_ok=True)  # type: ignore[attr-defined]
