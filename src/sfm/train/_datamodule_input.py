"""What a datamodule is asked to read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfm.data._cache import TokenCache
from sfm.data._cache_files import DESCRIPTION
from sfm.pp._choose import choose_tokenizer
from sfm.tokenizers import TOKENIZERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sfm.data._shards import CellShards
    from sfm.genes import GeneVocabulary
    from sfm.tokenizers import Tokenizer
    from sfm.train._datamodule import CellDataModule


def refuse_bad_settings(datamodule: CellDataModule) -> None:
    """Raise if a setting is out of range."""
    for name in ("batch_size", "block_size", "mixed_blocks"):
        if getattr(datamodule, name) < 1:
            msg = f"{name}={getattr(datamodule, name)!r} is not a positive number."
            raise ValueError(msg)
    if not 0 <= datamodule.validation_size < 1:
        msg = f"validation_size={datamodule.validation_size!r} is not a share from 0 to below 1."
        raise ValueError(msg)
    if datamodule.split_by not in ("cells", "blocks"):
        msg = f"Unknown split_by={datamodule.split_by!r}. Choose 'cells' or 'blocks'."
        raise ValueError(msg)


class Places:
    """Descriptions of cells, made when they are asked for."""

    def __init__(self, source: TokenCache | CellShards) -> None:
        self._source = source

    def __getitem__(self, rows: Sequence[int]) -> list[str]:
        return [self._source.place_of(row) for row in rows]


def is_cache(cells: Any) -> bool:
    return isinstance(cells, str | Path) and (Path(cells) / DESCRIPTION).is_file()


def opened_cache(cells: Any, asked: dict[str, Any]) -> TokenCache:
    given = [name for name, value in asked.items() if value not in (None, False)]
    if given:
        msg = f"{given[0]}={asked[given[0]]!r} does not go with a token cache, which holds what it was written with."
        raise ValueError(msg)
    return cells if isinstance(cells, TokenCache) else TokenCache(cells)


def tokenizer_of_files(tokenizer: Any, vocabulary: GeneVocabulary | None, max_length: int | None) -> Tokenizer:
    if vocabulary is None and isinstance(tokenizer, str) and tokenizer in TOKENIZERS.names():
        msg = (
            f"tokenizer={tokenizer!r} needs a vocabulary for all files. Pass vocabulary=, for example "
            "`sfm.GeneVocabulary.from_adata(adata)` of one of them, or leave tokenizer= out for that of the bundled model."
        )
        raise ValueError(msg)
    unused: Any = None  # it would be asked for a vocabulary
    return choose_tokenizer(unused, tokenizer, vocabulary=vocabulary, max_length=max_length)[0]
