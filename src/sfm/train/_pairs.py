from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sfm.nn import CellForPreTraining, join_pairs, mask_tokens, sample_pairs
from sfm.train._module import CellModule

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn import CellConfig

PairKey = Literal["batch", "labels"]
_GROUPS = {"batch": "batch_index", "labels": "label_index"}


class PairedCellModule(CellModule):
    """Masked genes, and whether two cells are from the same group.

    Each cell of a minibatch is joined with another one, half of them from its own group.

    Parameters
    ----------
    config
        Configuration of the network, with token types.
    mask_probability
        Share of genes to hide.
    pair_key
        Groups: the biological batches or the labels that `setup_anndata` was given.
    """

    # The loss is a sum of two means, over genes and over pairs.
    by_cell: ClassVar[bool] = False

    def __init__(self, config: CellConfig, *, mask_probability: float = 0.15, pair_key: PairKey = "batch") -> None:
        super().__init__(CellForPreTraining(config))
        self.mask_probability = mask_probability
        self.pair_key = pair_key

    def make_example(self, minibatch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Draw partners, join them and hide genes; see :meth:`CellModule.make_example`."""
        config: Any = self.network.config
        generator = self.generator(minibatch)
        pairs = sample_pairs(minibatch[_GROUPS[self.pair_key]], generator=generator)
        cells = self.inputs(minibatch)
        joined = join_pairs(
            cells,
            {key: tensor[pairs.partners] for key, tensor in cells.items()},
            sep_token_id=config.sep_token_id,
            cls_token_id=config.cls_token_id,
            pad_token_id=config.pad_token_id,
            max_length=config.max_position_embeddings,
        )
        masked = mask_tokens(
            joined["input_ids"],
            joined["attention_mask"],
            joined.get("values"),
            vocab_size=config.vocab_size,
            mask_token_id=config.mask_token_id,
            special_token_ids=config.special_token_ids,
            probability=self.mask_probability,
            generator=generator,
        )
        return {**joined, **masked._asdict(), "pair_labels": pairs.labels}
