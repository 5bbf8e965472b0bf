from __future__ import annotations

from sfm._registry import Registry

TOKENIZERS = Registry(
    kind="tokenizer",
    entries={
        "rank": "sfm.tokenizers._rank:RankTokenizer",
        "bins": "sfm.tokenizers._bins:BinTokenizer",
        "values": "sfm.tokenizers._values:ValueTokenizer",
    },
    entry_point_group="sfm.tokenizers",
)
