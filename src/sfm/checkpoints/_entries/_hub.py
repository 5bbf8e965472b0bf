"""Models on the Hugging Face hub, besides Geneformer."""

from __future__ import annotations

from dataclasses import replace

from sfm.checkpoints._sources import CatalogueEntry, HubSource, RemoteFile

# Tahoe-x1


def _tahoe(folder: str) -> HubSource:
    files = ("vocab.json", "model_config.yml", "collator_config.yml", "model.safetensors")
    return HubSource("tahoebio/Tahoe-x1", tuple(f"{folder}/{file}" for file in files), subfolder=folder)


_TAHOE_70M = CatalogueEntry(
    name="tahoe-x1-70m",
    family="tahoe_x1",
    source=_tahoe("70m-model"),
    size=71_000_000,
    species="human",
    gene_ids="ensembl",
    context=2047,
    dims=512,
    licence="Apache-2.0",
    commercial_use=True,
    citation="Gandhi et al. 2025, doi:10.1101/2025.10.23.683759",
    description="Tahoe-x1, 12 layers.",
)

_TAHOE = (
    _TAHOE_70M,
    replace(
        _TAHOE_70M,
        name="tahoe-x1-1b",
        source=_tahoe("1b-model"),
        size=1_350_000_000,
        dims=2048,
        description="Tahoe-x1, 24 layers.",
    ),
    replace(
        _TAHOE_70M,
        name="tahoe-x1-3b",
        source=_tahoe("3b-model"),
        size=2_700_000_000,
        dims=2560,
        description="Tahoe-x1, 32 layers, trained with drug tokens.",
    ),
)


# Nicheformer: the means that counts are divided by are only in the code repository, each at a commit that has it

_MEANS = {
    "b175a11fae32f790104521aeb5f64d16346e3be5": ("dissociated",),
    "a9b706d008011019e3fb858822e7686391940495": ("merfish",),
    "2e0bc5b593a039421ecd0d8c1b43b630c7ae620f": ("cosmx", "iss", "xenium"),
}

_NICHEFORMER = CatalogueEntry(
    name="nicheformer",
    family="nicheformer",
    source=HubSource(
        "theislab/Nicheformer",
        ("config.json", "vocab.json", "model.safetensors", "model.h5ad"),
        companions=tuple(
            RemoteFile(
                f"https://raw.githubusercontent.com/theislab/nicheformer/{commit}/data/model_means/{name}_mean_script.npy",
                f"{name}_mean_script.npy",
            )
            for commit, names in _MEANS.items()
            for name in names
        ),
    ),
    size=49_300_000,
    species="human, mouse",
    gene_ids="ensembl",
    context=1497,
    dims=512,
    licence="BSD-3-Clause (code)",
    citation="Tejada-Lapuerta et al. 2025, doi:10.1038/s41592-025-02814-z",
    description="Nicheformer, dissociated and spatial cells; for the latter pass technology_mean=.",
    options={"technology_mean": "dissociated"},
)

_STATE = CatalogueEntry(
    name="state-se-600m",
    family="state_se",
    source=HubSource(
        "arcinstitute/SE-600M", ("se600m_epoch16.ckpt", "protein_embeddings.pt", "config.yaml", "*LICENSE*")
    ),
    size=600_000_000,
    species="human",
    gene_ids="symbol",
    context=2047,
    dims=2058,
    licence="Arc Institute non-commercial model licence",
    commercial_use=False,
    citation="Adduri et al. 2025, doi:10.1101/2025.06.26.661135",
    description="State embedding model.",
)


# Cell2Sentence: causal language models as transformers saves them


# Of a tokenizer, transformers may have saved any of these.
_C2S_FILES = (
    "config.json",
    "generation_config*.json",
    "model*.safetensors",
    "model*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map*.json",
    "vocab*.json",
    "merges*.txt",
)


def _c2s(repo: str) -> HubSource:
    return HubSource(f"vandijklab/{repo}", _C2S_FILES)


_C2S_GEMMA_2B = CatalogueEntry(
    name="c2s-scale-gemma-2-2b",
    family="cell_sentences",
    source=_c2s("C2S-Scale-Gemma-2-2B"),
    size=2_600_000_000,
    species="human, mouse",
    gene_ids="symbol",
    dims=2304,
    licence="CC-BY-4.0, and the Gemma terms of use",
    commercial_use=True,
    citation="Rizvi et al. 2025, doi:10.1101/2025.04.14.648850",
    description="C2S-Scale on Gemma 2, cells as sentences of gene names.",
)

_C2S = (
    _C2S_GEMMA_2B,
    replace(
        _C2S_GEMMA_2B,
        name="c2s-scale-gemma-2-27b",
        source=_c2s("C2S-Scale-Gemma-2-27B"),
        size=27_200_000_000,
        dims=4608,
    ),
    replace(
        _C2S_GEMMA_2B,
        name="c2s-scale-pythia-1b",
        source=_c2s("C2S-Scale-Pythia-1b-pt"),
        size=1_010_000_000,
        dims=2048,
        licence="",
        commercial_use=None,
        description="C2S-Scale on Pythia, cells as sentences of gene names.",
    ),
    replace(
        _C2S_GEMMA_2B,
        name="c2s-pythia-160m",
        source=_c2s("pythia-160m-c2s"),
        size=162_000_000,
        species="human",
        dims=768,
        licence="CC-BY-NC-ND-4.0",
        commercial_use=False,
        citation="Levine et al. 2024, doi:10.1101/2023.09.11.557287",
        description="Cell2Sentence on Pythia, of immune cells as sentences of gene names.",
        options={"template": "c2s", "n_genes": 100},
    ),
)


ON_THE_HUB = (*_TAHOE, _NICHEFORMER, _STATE, *_C2S)
