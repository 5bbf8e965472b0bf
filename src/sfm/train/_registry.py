"""What scvi-tools knows about data, for data that are no AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scvi
from scvi import REGISTRY_KEYS

from sfm.train._splitter import CATEGORIES, TOKENS_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sfm.data._categories import Categories
    from sfm.tokenizers import Tokenizer

_COLUMNS = {REGISTRY_KEYS.BATCH_KEY: "_scvi_batch", REGISTRY_KEYS.LABELS_KEY: "_scvi_labels"}


def registry_of(
    tokenizer: Tokenizer,
    *,
    where: Mapping[str, Any],
    categories: Mapping[str, Categories],
    counts: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """Return the registry that `setup_anndata` would make of these data, but for the name of the model.

    Parameters
    ----------
    tokenizer
        The tokenizer.
    where
        Which matrix and gene names are read.
    categories
        Categories by their names in a minibatch.
    counts
        How many cells are in each category.
    """
    registered = {CATEGORIES[name]: (categories[name], counts[name]) for name in categories}
    fields = {TOKENS_KEY: _field("obsm", TOKENS_KEY, {"column_names": np.arange(tokenizer.max_length)})}
    fields[TOKENS_KEY]["summary_stats"] = {"n_tokens": tokenizer.max_length}
    for key, (entry, n_cells) in registered.items():
        names = np.array(entry.names, dtype=object)
        state = {"categorical_mapping": names, "original_key": entry.key, "n_cells": n_cells.tolist()}
        fields[key] = _field("obs", _COLUMNS[key], state)
        fields[key]["summary_stats"] = {f"n_{key}": len(names)}
    return {
        "scvi_version": scvi.__version__,
        "setup_method_name": "setup_anndata",
        "setup_args": {
            **where,
            "tokenizer": tokenizer.to_dict(),
            "vocabulary": tokenizer.vocabulary.to_dict(),
            "batch_key": _key(categories, "batch_index"),
            "labels_key": _key(categories, "label_index"),
        },
        "field_registries": fields,
    }


def _field(attr_name: str, attr_key: str, state: dict[str, Any]) -> dict[str, Any]:
    return {"data_registry": {"attr_name": attr_name, "attr_key": attr_key}, "state_registry": state}


def _key(categories: Mapping[str, Categories], name: str) -> str | None:
    return categories[name].key if name in categories else None
