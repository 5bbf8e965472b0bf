from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from scvi.module.base import BaseModuleClass, LossOutput

from sfm.nn._masking import IGNORED
from sfm.train._lora import has_lora
from sfm.train._parts import loss_by_parts
from sfm.train._sharding import is_sharded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from sfm.nn import CellModelWithHead

_INPUTS = ("input_ids", "attention_mask", "values")
# Tokens computed at once. Small on the CPU, whose caches hold one long cell; elsewhere the whole minibatch.
_MAX_TOKENS = {"cpu": 2048}


class CellModule(BaseModuleClass):
    """A network of :mod:`sfm.nn` with its objective, as a scvi-tools module.

    An objective says how the example that the network learns from is made of a minibatch of tokens. In training it is
    made anew in every step; in validation it follows from the cells themselves, so that epochs can be compared.

    Parameters
    ----------
    network
        The network.
    """

    #: Whether the loss is a mean over the targets of single cells, so that cells can be computed one after another.
    by_cell: ClassVar[bool] = True

    def __init__(self, network: CellModelWithHead) -> None:
        super().__init__()
        self.network = network

    @abstractmethod
    def make_example(self, minibatch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the arguments of the network, labels included.

        Parameters
        ----------
        minibatch
            `input_ids`, `attention_mask`, and `values` where the tokenizer has them, each of shape `(cells, tokens)`.
        """

    def inputs(self, minibatch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what a minibatch holds for the network.

        Parameters
        ----------
        minibatch
            A minibatch.
        """
        return {key: tensor for key, tensor in minibatch.items() if key in _INPUTS}

    def n_targets(self, example: dict[str, Tensor]) -> Tensor:
        """Count what the loss of each cell is summed over.

        Parameters
        ----------
        example
            What `make_example` returned.
        """
        return (example["labels"] != IGNORED).sum(dim=1)

    def forward(self, tensors: dict[str, Tensor], **_: Any) -> tuple[dict[str, Any], dict[str, Any], LossOutput]:
        """Return what scvi-tools' training plan asks for, of which only the last is not empty.

        Parameters
        ----------
        tensors
            A minibatch.
        """
        example = {key: tensor for key, tensor in self.make_example(tensors).items() if tensor is not None}
        n_targets = self.n_targets(example)
        loss = loss_by_parts(self.network, example, n_targets, max_tokens=self.max_tokens if self.by_cell else None)
        # The negative log-likelihood of a cell is the sum over its targets, which are shared out evenly.
        return (
            {},
            {},
            LossOutput(loss=loss, reconstruction_loss=loss.detach() * n_targets, n_obs_minibatch=len(n_targets)),
        )

    @property
    def max_tokens(self) -> int | None:
        """Most tokens to compute at once, padding included; `None` for no limit."""
        return None if is_sharded(self.network) else _MAX_TOKENS.get(self.device.type)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002  # as in torch
        """Set training or evaluation mode; parts that are frozen as a whole stay in evaluation mode.

        Dropout there would be noise that nothing can learn to live with.

        Parameters
        ----------
        mode
            Whether to train.
        """
        super().train(mode)
        if mode and not has_lora(self.network):  # adapters do learn, in between
            for module in _frozen_modules(self.network):
                module.eval()
        return self

    @property
    def starts_from_frequencies(self) -> bool:
        """Whether the head is new and will be trained, so that it can begin with the frequencies of genes."""
        bias = self._frequency_bias()
        if bias is None or bias.shape != (self.network.config.vocab_size,):
            return False
        return bool(bias.requires_grad) and not bool(bias.any())

    @torch.no_grad()
    def start_from_frequencies(self, counts: Tensor) -> None:
        """Let the head begin as the predictor that knows gene frequencies alone.

        Parameters
        ----------
        counts
            Occurrences of each token in the training cells, shape `(vocab_size,)`.
        """
        frequencies = (counts.double() + 1) / (counts.double() + 1).sum()
        bias: Any = self._frequency_bias()
        bias.copy_(frequencies.log())

    def _frequency_bias(self) -> Tensor | None:
        """Bias of the gene logits, if the network has any."""
        bias: Tensor | None = getattr(getattr(self.network, "head", None), "bias", None)
        return bias

    def generator(self, minibatch: dict[str, Tensor]) -> torch.Generator | None:
        """Return the source of randomness: the global one in training, one that the cells determine in validation.

        Parameters
        ----------
        minibatch
            A minibatch.
        """
        input_ids = minibatch["input_ids"]
        return None if self.training else torch.Generator(input_ids.device).manual_seed(int(input_ids.sum()))


def _frozen_modules(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the largest parts whose weights are all frozen."""
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        yield module
        return
    for child in module.children():
        yield from _frozen_modules(child)
