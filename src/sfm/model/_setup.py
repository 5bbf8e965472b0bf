"""Registering tokens with scvi-tools."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from scvi import REGISTRY_KEYS
from scvi.data import fields

from sfm.data import encode_cells
from sfm.genes import GeneVocabulary
from sfm.pp._choose import choose_tokenizer
from sfm.tokenizers import Tokenizer
from sfm.train._splitter import TOKENS_KEY, VALUES_KEY

if TYPE_CHECKING:
    from anndata import AnnData


class TokensField(fields.ObsmField):
    """Tokens in `obsm`, whose columns are positions and need no names nor a log line about them."""

    def _setup_column_names(self, adata: AnnData) -> np.ndarray:
        return np.arange(self.get_field_data(adata).shape[1])


def tokenizer_from_setup(setup_args: dict[str, Any]) -> Tokenizer:
    """Rebuild the tokenizer that `setup_anndata` recorded."""
    return Tokenizer.from_dict(dict(setup_args["tokenizer"]), GeneVocabulary.from_dict(setup_args["vocabulary"]))


def choose_setup_tokenizer(
    adata: AnnData, tokenizer: Any, vocabulary: GeneVocabulary | dict[str, Any] | None, **options: Any
) -> Tokenizer:
    """Return the tokenizer that `setup_anndata` is asked for, or that a saved model brings, as plain values."""
    if isinstance(tokenizer, dict):
        return tokenizer_from_setup({"tokenizer": tokenizer, "vocabulary": vocabulary})
    if isinstance(vocabulary, dict):
        msg = "vocabulary= is a dict. Pass `sfm.GeneVocabulary.from_dict(vocabulary)`."
        raise TypeError(msg)
    chosen, _ = choose_tokenizer(adata, tokenizer, vocabulary=vocabulary, **options)
    return chosen


def tokens_slot(tokenizer: Tokenizer) -> str:
    """Slot for the tokens of this tokenizer; another tokenizer's tokens stay beside it."""
    settings = json.dumps([tokenizer.to_dict(), tokenizer.vocabulary.content_hash], sort_keys=True)
    return f"_sfm_tokens_{hashlib.sha256(settings.encode()).hexdigest()[:8]}"


def write_tokens(adata: AnnData, tokenizer: Tokenizer, **where: Any) -> list[fields.BaseAnnDataField]:
    """Tokenize into `obsm`, and return the fields that register the result."""
    encoded = encode_cells(adata, tokenizer, model_name=f"The tokenizer {tokenizer.name!r}", **where)
    tokens, values = encoded.cells.to_obsm()
    slot = tokens_slot(tokenizer)
    adata.obsm[slot] = tokens
    registered = [TokensField(TOKENS_KEY, slot)]
    if values is not None:
        adata.obsm[f"{slot}_values"] = values
        registered.append(TokensField(VALUES_KEY, f"{slot}_values"))
    return registered


def category_fields(batch_key: str | None, labels_key: str | None) -> list[fields.BaseAnnDataField]:
    """Return fields for the categories that were named."""
    named = [(REGISTRY_KEYS.BATCH_KEY, batch_key), (REGISTRY_KEYS.LABELS_KEY, labels_key)]
    return [fields.CategoricalObsField(registry_key, key) for registry_key, key in named if key is not None]
