from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sfm.nn._masking import IGNORED
from sfm.nn.architectures._transcriptformer import count_losses
from sfm.train._causal import CausalCellModule

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn import CellConfig, CellForCausalLM
    from sfm.nn._causal import CausalCellOutput


class CausalCountModule(CausalCellModule):
    """Next-gene prediction together with the count of each gene (TranscriptFormer, Pearce et al. 2025).

    The loss is the negative log-likelihood of counts plus `gene_loss_weight`, a setting of the published model, times the
    cross-entropy of genes. Both are sums over the predicted tokens of all cells, divided by the number of these: genes,
    and the end of each cell, which has no count.

    Parameters
    ----------
    config
        Configuration of the network, with a count head.
    """

    def __init__(self, config: CellConfig) -> None:
        super().__init__(config)
        # A hook, so that the network stays of the class that it is saved as.
        self.network.register_forward_hook(_add_counts, with_kwargs=True)

    def make_example(self, minibatch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Label genes and the end of each cell; see :meth:`CellModule.make_example`."""
        example, config = super().make_example(minibatch), self.network.config
        others = [token for token in config.special_token_ids if token != config.eos_token_id]
        is_start = torch.isin(example["input_ids"], torch.tensor(others, device=example["input_ids"].device))
        return {**example, "labels": example["labels"].masked_fill(is_start, IGNORED)}


def next_gene_module(config: CellConfig) -> CausalCellModule:
    """Make the module that learns what a model predicts of the next gene: which it is, and its count where it can."""
    predicts_counts = config.architecture_settings.get("count_head", False)
    return CausalCountModule(config) if predicts_counts else CausalCellModule(config)


def _add_counts(
    network: CellForCausalLM, _: tuple[Any, ...], minibatch: dict[str, Any], output: CausalCellOutput
) -> CausalCellOutput:
    """Add the loss of counts to that of genes, where there is one."""
    if output.loss is None:
        return output
    states: Any = output.last_hidden_state
    inputs = (minibatch[name] for name in ("input_ids", "attention_mask", "values"))
    losses, _is_gene = count_losses(network.cell, states, *inputs)
    is_predicted = (minibatch["labels"][:, 1:] != IGNORED) & minibatch["attention_mask"][:, :-1].bool()
    of_counts = (losses * is_predicted).sum() / is_predicted.sum().clamp(min=1)
    output.loss = of_counts + network.config.architecture_settings.get("gene_loss_weight", 1.0) * output.loss
    return output
