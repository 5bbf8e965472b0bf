from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sfm.nn import CellForMaskedLM, mask_tokens
from sfm.train._module import CellModule

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn import CellConfig


class MaskedCellModule(CellModule):
    """Masked gene prediction.

    Parameters
    ----------
    config
        Configuration of the network.
    mask_probability
        Share of genes to hide.
    """

    def __init__(self, config: CellConfig, *, mask_probability: float = 0.15) -> None:
        super().__init__(CellForMaskedLM(config))
        self.mask_probability = mask_probability

    def make_example(self, minibatch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Hide genes, on the device of the minibatch; see :meth:`CellModule.make_example`."""
        config: Any = self.network.config
        attention_mask = minibatch["attention_mask"]
        masked = mask_tokens(
            minibatch["input_ids"],
            attention_mask,
            minibatch.get("values"),
            vocab_size=config.vocab_size,
            mask_token_id=config.mask_token_id,
            special_token_ids=config.special_token_ids,
            probability=self.mask_probability,
            generator=self.generator(minibatch),
        )
        return {"attention_mask": attention_mask, **masked._asdict()}
