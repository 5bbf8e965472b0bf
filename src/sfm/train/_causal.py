from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sfm.nn import CellForCausalLM, append_token, causal_labels
from sfm.nn._masking import IGNORED
from sfm.train._module import CellModule

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn import CellConfig


class CausalCellModule(CellModule):
    """Next-gene prediction.

    A cell ends with `<eos>`, unless it was cut at the longest length, whose end is not that of the cell.

    Parameters
    ----------
    config
        Configuration of the network, with a causal backbone.
    """

    def __init__(self, config: CellConfig) -> None:
        super().__init__(CellForCausalLM(config))

    def make_example(self, minibatch: dict[str, Tensor]) -> dict[str, Tensor]:
        """End each cell and label its genes and its end; see :meth:`CellModule.make_example`."""
        config = self.network.config
        example = self.inputs(minibatch)
        if config.eos_token_id is not None:
            example = append_token(example, config.eos_token_id, max_length=config.max_position_embeddings)
            longest = int(example["attention_mask"].sum(dim=1).max())
            example = {key: tensor[:, :longest] for key, tensor in example.items()}
        labels = causal_labels(example["input_ids"], example["attention_mask"])
        # What a cell starts with is given, be it one token or several.
        others = [token for token in config.special_token_ids if token != config.eos_token_id]
        is_start = torch.isin(example["input_ids"], torch.tensor(others, device=labels.device))
        return {**example, "labels": labels.masked_fill(is_start, IGNORED)}

    def n_targets(self, example: dict[str, Tensor]) -> Tensor:
        """Count tokens that have one before them; see :meth:`CellModule.n_targets`."""
        return (example["labels"][:, 1:] != IGNORED).sum(dim=1)
