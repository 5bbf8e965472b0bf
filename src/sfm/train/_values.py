from __future__ import annotations

from typing import TYPE_CHECKING

from sfm.nn import CellForMaskedValue, mask_values
from sfm.train._module import CellModule

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn import CellConfig


class MaskedValueModule(CellModule):
    """Masked expression regression: the genes are visible, some of their values are not.

    Parameters
    ----------
    config
        Configuration of the network, with a value embedding.
    mask_probability
        Share of values to hide.
    """

    def __init__(self, config: CellConfig, *, mask_probability: float = 0.15) -> None:
        super().__init__(CellForMaskedValue(config))
        self.mask_probability = mask_probability

    def make_example(self, minibatch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Hide values, on the device of the minibatch; see :meth:`CellModule.make_example`."""
        input_ids, attention_mask = minibatch["input_ids"], minibatch["attention_mask"]
        masked = mask_values(
            input_ids,
            attention_mask,
            minibatch["values"],
            special_token_ids=self.network.config.special_token_ids,
            probability=self.mask_probability,
            generator=self.generator(minibatch),
        )
        return {"input_ids": input_ids, "attention_mask": attention_mask, **masked._asdict()}

    def n_targets(self, example: dict[str, Tensor]) -> Tensor:
        """Count hidden values; see :meth:`CellModule.n_targets`."""
        return (~example["labels"].isnan()).sum(dim=1)
