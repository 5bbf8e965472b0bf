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
        "nicheformer": "sfm.tokenizers.published._nicheformer:NicheformerTokenizer",
        "nicheformer_reference": "sfm.tokenizers.published._nicheformer:NicheformerReferenceTokenizer",
        "uce": "sfm.tokenizers.published._uce:UCETokenizer",
        "state_se": "sfm.tokenizers.published._state_se:StateTokenizer",
        "scgpt": "sfm.tokenizers.published._scgpt:ScGPTTokenizer",
        "tahoe_x1": "sfm.tokenizers.published._tahoe_x1:TahoeX1Tokenizer",
        "transcriptformer": "sfm.tokenizers.published._transcriptformer:TranscriptformerTokenizer",
        "scfoundation": "sfm.tokenizers.published._scfoundation:ScFoundationTokenizer",
        "cellplm": "sfm.tokenizers.published._cellplm:CellPLMTokenizer",
        "cell_sentences": "sfm.tokenizers.published._cell_sentences:SentenceTokenizer",
    },
)
