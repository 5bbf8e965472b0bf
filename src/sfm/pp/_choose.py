from __future__ import annotations

from typing import TYPE_CHECKING

from sfm.genes import GeneVocabulary
from sfm.tokenizers import TOKENIZERS, Tokenizer, get_tokenizer

if TYPE_CHECKING:
    from typing import Any

    from anndata import AnnData

    from sfm.checkpoints import PretrainedCells


def choose_tokenizer(
    adata: AnnData,
    tokenizer: str | Tokenizer | PretrainedCells | None,
    *,
    vocabulary: GeneVocabulary | None,
    max_length: int | None,
    **where: Any,
) -> tuple[Tokenizer, str]:
    """Return the tokenizer that is meant, and what to call its owner in messages."""
    if isinstance(tokenizer, str) and tokenizer in TOKENIZERS.names():
        if vocabulary is None:
            vocabulary = GeneVocabulary.from_adata(adata, **where)
        return _with_length(get_tokenizer(tokenizer)(vocabulary), max_length), f"The tokenizer {tokenizer!r}"
    if vocabulary is not None:
        known = ", ".join(map(repr, TOKENIZERS.names()))
        msg = f"vocabulary= goes with a tokenizer named by {known}; tokenizer={tokenizer!r} has its own vocabulary."
        raise ValueError(msg)
    if isinstance(tokenizer, Tokenizer):
        return _with_length(tokenizer, max_length), f"The tokenizer {tokenizer.name!r}"
    from sfm.checkpoints._resolve import resolve_model

    pretrained = resolve_model(tokenizer)
    return _with_length(pretrained.tokenizer, max_length), f"Model {pretrained.name!r}"


def _with_length(tokenizer: Tokenizer, max_length: int | None) -> Tokenizer:
    if max_length is None or max_length == tokenizer.max_length:
        return tokenizer
    return Tokenizer.from_dict({**tokenizer.to_dict(), "max_length": max_length}, tokenizer.vocabulary)
