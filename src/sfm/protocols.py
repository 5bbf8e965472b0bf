"""The contracts that third-party tokenizers and models implement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ModelProtocol", "TokenizedCellProtocol"]


@runtime_checkable
class TokenizedCellProtocol(Protocol):
    """One tokenized cell, without padding.

    `input_ids` and `attention_mask` have shape `(n_tokens,)`; `metadata` holds whatever the tokenizer wants to
    carry along (for example the length before truncation).
    """

    @property
    def input_ids(self) -> Tensor:
        """Token ids, shape `(n_tokens,)`."""
        ...

    @property
    def attention_mask(self) -> Tensor:
        """One where a token stands, zero at padding, shape `(n_tokens,)`."""
        ...

    @property
    def metadata(self) -> dict[str, Any]:
        """Whatever else is known about the cell."""
        ...


@runtime_checkable
class ModelProtocol(Protocol):
    """What :func:`sfm.tl.embed` needs of a model.

    Any object with these two methods can be embedded with, given the tokenizer that it was trained with.
    """

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        values: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the model on a padded minibatch.

        Parameters
        ----------
        input_ids
            Token ids, shape `(cells, tokens)`.
        attention_mask
            One where a token stands, zero at padding, shape `(cells, tokens)`.
        values
            Expression value per token, shape `(cells, tokens)`, for tokenizers that have values.
        labels
            What the model's objective needs, if it has one.
        kwargs
            Anything else the model understands.
        """
        ...

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        values: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Embed each cell of a padded minibatch; the result has shape `(cells, dims)`.

        Parameters
        ----------
        input_ids
            Token ids, shape `(cells, tokens)`.
        attention_mask
            One where a token stands, zero at padding, shape `(cells, tokens)`.
        values
            Expression value per token, shape `(cells, tokens)`, for tokenizers that have values.
        kwargs
            Anything else the model understands, for example `pooling=`.
        """
        ...
