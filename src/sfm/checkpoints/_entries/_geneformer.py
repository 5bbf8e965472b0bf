"""Geneformer: all models share one repository, and the dictionaries are in its package folder."""

from __future__ import annotations

from dataclasses import replace

from sfm.checkpoints._sources import CatalogueEntry, HubSource

_CONFIG_AND_WEIGHTS = ("config.json", "model.safetensors")
_CONFIG_AND_PICKLE = ("config.json", "pytorch_model.bin")

_DICTIONARIES = ("token_dictionary", "gene_median_dictionary", "ensembl_mapping_dict", "gene_name_id_dict")
_BEFORE_V2_104M = "31bf641"


def _source(
    folder: str, *, corpus: str, files: tuple[str, ...] = _CONFIG_AND_WEIGHTS, revision: str | None = None
) -> HubSource:
    dictionaries = "geneformer/gene_dictionaries_30m" if corpus == "gc30M" else "geneformer"
    return HubSource(
        repo="ctheodoris/Geneformer",
        subfolder=folder,
        files=(
            *(f"{folder}/{file}" for file in files),
            *(f"{dictionaries}/{name}_{corpus}.pkl" for name in _DICTIONARIES),
        ),
        revision=revision,
    )


_V1 = CatalogueEntry(
    name="geneformer-v1-10m",
    family="geneformer",
    source=_source("Geneformer-V1-10M", corpus="gc30M"),
    size=10_300_000,
    species="human",
    gene_ids="ensembl",
    context=2048,
    dims=256,
    licence="Apache-2.0",
    commercial_use=True,
    citation="Theodoris et al. 2023, doi:10.1038/s41586-023-06139-9",
    description="Geneformer V1, 6 layers, 30 million cells.",
)

_V2 = replace(
    _V1,
    name="geneformer-v2-104m",
    source=_source("Geneformer-V2-104M", corpus="gc104M"),
    size=104_000_000,
    context=4094,
    dims=768,
    citation="Chen et al. 2024, doi:10.1101/2024.08.16.608180",
    description="Geneformer V2, 12 layers, 104 million cells.",
)

GENEFORMER = (
    _V1,
    _V2,
    replace(
        _V2,
        name="geneformer-v2-104m-clcancer",
        source=_source("Geneformer-V2-104M_CLcancer", corpus="gc104M"),
        description="Geneformer V2, 12 layers, training continued on cancer.",
    ),
    replace(
        _V2,
        name="geneformer-v2-316m",
        source=_source("Geneformer-V2-316M", corpus="gc104M"),
        size=316_000_000,
        dims=1152,
        description="Geneformer V2, 18 layers, 104 million cells.",
    ),
    replace(
        _V1,
        name="geneformer-v1-10m-cardiomyopathies",
        source=_source(
            "fine_tuned_models/Geneformer-V1-10M_CellClassifier_cardiomyopathies_220224",
            corpus="gc30M",
            files=_CONFIG_AND_PICKLE,
        ),
        description="Geneformer V1 fine-tuned to tell cardiomyopathies apart (3 labels).",
    ),
    replace(
        _V1,
        name="geneformer-12l-30m",
        source=_source("gf-12L-30M-i2048", corpus="gc30M", files=_CONFIG_AND_PICKLE, revision=_BEFORE_V2_104M),
        size=39_600_000,
        dims=512,
        description="Geneformer V1, 12 layers, 30 million cells; no longer in the main branch.",
    ),
    replace(
        _V2,
        name="geneformer-12l-95m",
        source=_source("gf-12L-95M-i4096", corpus="gc95M", revision=_BEFORE_V2_104M),
        size=38_000_000,
        dims=512,
        description="Geneformer, 12 layers, 95 million cells; no longer in the main branch.",
    ),
    replace(
        _V2,
        name="geneformer-12l-95m-clcancer",
        source=_source("gf-12L-95M-i4096_CLcancer", corpus="gc95M", revision=_BEFORE_V2_104M),
        size=38_000_000,
        dims=512,
        description="Geneformer, 12 layers, training continued on cancer; no longer in the main branch.",
    ),
    replace(
        _V2,
        name="geneformer-20l-95m",
        source=_source("gf-20L-95M-i4096", corpus="gc95M", revision=_BEFORE_V2_104M),
        size=151_000_000,
        dims=896,
        description="Geneformer, 20 layers, 95 million cells; no longer in the main branch.",
    ),
)
