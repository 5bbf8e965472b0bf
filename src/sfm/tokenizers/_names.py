from __future__ import annotations

from sfm._registry import Registry

#: Tokenizers that need nothing but a vocabulary.
TOKENIZERS = Registry(
    kind="tokenizer",
    entries={
        "rank": "sfm.tokenizers._rank:RankTokenizer",
        "bins": "sfm.tokenizers._bins:BinTokenizer",
        "values": "sfm.tokenizers._values:ValueTokenizer",
    },
    entry_point_group="sfm.tokenizers",
)

#: Tokenizers of published models, which come with what their files hold.
PUBLISHED_TOKENIZERS = Registry(
    kind="tokenizer of a published model",
    entries={
        "geneformer": "sfm.tokenizers.published._geneformer:GeneformerTokenizer",
    },
)
