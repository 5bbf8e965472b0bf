from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch.nn import functional as F

from sfm.nn import CellForMaskedLM, mask_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn import CellConfig


class MaskedCellModule(BaseModuleClass):
    """Masked gene prediction as a scvi-tools module.

    Genes are hidden anew in every training step. In validation the hidden genes follow from the cells themselves, so
    that epochs can be compared.

    Parameters
    ----------
    config
        Configuration of the network.
    mask_probability
        Share of genes to hide.
    """

    def __init__(self, config: CellConfig, *, mask_probability: float = 0.15) -> None:
        super().__init__()
        self.network = CellForMaskedLM(config)
        self.mask_probability = mask_probability

    def _get_inference_input(self, tensors: dict[str, Tensor], **_: Any) -> dict[str, Tensor]:
        return tensors

    def _get_generative_input(self, tensors: dict[str, Tensor], inference_outputs: dict[str, Any]) -> dict[str, Any]:
        return {}

    @auto_move_data
    def inference(
        self, input_ids: Tensor, attention_mask: Tensor, values: Tensor | None = None
    ) -> dict[str, Tensor | None]:
        """Hide genes, on the device, and predict them."""
        config = self.network.config
        masked = mask_tokens(
            input_ids,
            attention_mask,
            values,
            vocab_size=config.vocab_size,
            mask_token_id=config.mask_token_id,
            special_token_ids=config.special_token_ids,
            probability=self.mask_probability,
            generator=None if self.training else _generator_of(input_ids),
        )
        output = self.network(masked.input_ids, attention_mask, masked.values, labels=masked.labels)
        return {"loss": output.loss, "logits": output.logits, "labels": masked.labels}

    def generative(self) -> dict[str, Any]:
        """Nothing is generated; the logits come with the inference."""
        return {}

    def loss(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Any], generative_outputs: Any
    ) -> LossOutput:
        """Cross-entropy in nats: over hidden genes for the gradient, per cell for the logged ELBO."""
        labels = inference_outputs["labels"]
        hidden = labels >= 0
        with torch.no_grad():
            per_gene = F.cross_entropy(inference_outputs["logits"].float(), labels[hidden], reduction="none")
            cell = hidden.nonzero()[:, 0]
            total = torch.zeros(len(labels), device=labels.device).index_add_(0, cell, per_gene)
            per_cell = total / hidden.sum(dim=1).clamp(min=1)
        return LossOutput(loss=inference_outputs["loss"], reconstruction_loss=per_cell)

    @torch.no_grad()
    def start_from_frequencies(self, counts: Tensor) -> None:
        """Let the head begin as the predictor that knows gene frequencies alone.

        Parameters
        ----------
        counts
            Occurrences of each token in the training cells, shape `(vocab_size,)`.
        """
        frequencies = (counts.double() + 1) / (counts.double() + 1).sum()
        self.network.head.bias.copy_(frequencies.log())


def _generator_of(input_ids: Tensor) -> torch.Generator:
    return torch.Generator(device=input_ids.device).manual_seed(int(input_ids.sum()))
