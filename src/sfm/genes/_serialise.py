"""Writing gene vocabularies down: as plain types, JSON, a table, or a hash."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd

    from sfm.genes._vocabulary import GeneVocabulary

FORMAT = "sfm-gene-vocabulary"
VERSION = 1
_FIELDS = ("gene_ids", "symbols", "token_ids", "special_tokens", "medians", "expression", "species")


def plain(vocabulary: GeneVocabulary) -> dict[str, Any]:
    """Return all fields in plain types; `symbols` is None where they equal `gene_ids`."""
    medians, expression = vocabulary.medians, vocabulary.expression
    return {
        "format": FORMAT,
        "version": VERSION,
        "species": vocabulary.species,
        "special_tokens": dict(vocabulary.special_tokens),
        "gene_ids": list(vocabulary.gene_ids),
        "symbols": None if vocabulary.symbols == vocabulary.gene_ids else list(vocabulary.symbols),
        "token_ids": vocabulary.token_ids.tolist(),
        "medians": None if medians is None else medians.tolist(),
        "expression": None if expression is None else expression.tolist(),
        **({"aliases": dict(vocabulary.aliases)} if vocabulary.aliases else {}),
        **({"matching": vocabulary.matching} if vocabulary.matching != "all" else {}),
    }


def arguments(fields: Mapping[str, Any], source: str = "the dictionary") -> dict[str, Any]:
    """Return the arguments of `GeneVocabulary` from what `plain` returned."""
    found = fields.get("format") if hasattr(fields, "get") else type(fields).__name__
    if found != FORMAT:
        msg = f"{source} is no gene vocabulary: 'format' is {found!r}, not {FORMAT!r}. GeneVocabulary.save writes one."
        raise ValueError(msg)
    if fields.get("version") != VERSION:
        msg = (
            f"{source} has version {fields.get('version')!r} of the gene vocabulary format; this sfm reads "
            f"version {VERSION}. Update sfm-tools."
        )
        raise ValueError(msg)
    missing = [name for name in _FIELDS if name not in fields]
    if missing:
        msg = f"{source} lacks {missing!r} of a gene vocabulary. Write it again with GeneVocabulary.save."
        raise ValueError(msg)
    given = {name: fields[name] for name in _FIELDS}
    given |= {"aliases": fields.get("aliases"), "matching": fields.get("matching", "all")}
    return given | {"symbols": given["gene_ids"] if given["symbols"] is None else given["symbols"]}


def write(fields: Mapping[str, Any], path: Path) -> None:
    """Write compact JSON."""
    path.write_text(json.dumps(fields, separators=(",", ":"), allow_nan=False) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    """Read JSON that holds a vocabulary."""
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not text, or not JSON
        msg = f"{str(path)!r} is no gene vocabulary: it is not JSON ({error}). Write one with GeneVocabulary.save."
        raise ValueError(msg) from error
    arguments(fields, source=repr(str(path)))
    return fields


def digest(vocabulary: GeneVocabulary) -> str:
    """Return the SHA-256 of every field, floats by their bits."""
    sha = hashlib.sha256()
    texts: dict[str, Any] = {
        "format": [FORMAT, VERSION],
        "gene_ids": vocabulary.gene_ids,
        "symbols": vocabulary.symbols,
        "special_tokens": sorted(vocabulary.special_tokens.items()),
        "species": vocabulary.species,
    }
    if vocabulary.aliases:
        texts["aliases"] = sorted(vocabulary.aliases.items())
    if vocabulary.matching != "all":
        texts["matching"] = vocabulary.matching
    sha.update(json.dumps(texts, separators=(",", ":"), sort_keys=True).encode())
    arrays = (("token_ids", "<i4"), ("medians", "<f8"), ("expression", "<f8"))
    for name, dtype in arrays:
        values = getattr(vocabulary, name)
        content = b"" if values is None else values.astype(dtype).tobytes()
        sha.update(f"{name}:{'none' if values is None else len(content)}:".encode() + content)
    return sha.hexdigest()


def frame(vocabulary: GeneVocabulary) -> pd.DataFrame:
    """Return one row per token id."""
    import pandas as pd

    special = vocabulary.special_tokens
    n_special = len(special)
    columns: dict[str, Any] = {
        "gene": [*special, *vocabulary.gene_ids],
        "symbol": [""] * n_special + list(vocabulary.symbols),
        "special": np.arange(n_special + len(vocabulary)) < n_special,
    }
    for column, values in (("median", vocabulary.medians), ("expression", vocabulary.expression)):
        if values is not None:
            columns[column] = np.concatenate([np.full(n_special, np.nan), values])
    token_ids = np.concatenate([np.array(list(special.values()), dtype=np.int32), vocabulary.token_ids])
    return pd.DataFrame(columns, index=pd.Index(token_ids, name="token_id")).sort_index()
