"""Models that are not on a hub."""

from __future__ import annotations

from dataclasses import replace

from sfm.checkpoints._sources import CatalogueEntry, ManualSource, RemoteFile, UrlSource

# scGPT: one Google Drive folder per model.


def _scgpt(drive_folder: str) -> ManualSource:
    return ManualSource(
        page=f"https://drive.google.com/drive/folders/{drive_folder}",
        files=("args.json", "vocab.json", "best_model.pt"),
    )


_SCGPT_HUMAN = CatalogueEntry(
    name="scgpt-human",
    family="scgpt",
    source=_scgpt("1oWh_-ZRdhtoGQ2Fw24HP41FgLoomVo-y"),
    size=51_300_000,
    species="human",
    gene_ids="symbol",
    context=1199,
    dims=512,
    licence="MIT (code)",
    citation="Cui et al. 2024, doi:10.1038/s41592-024-02201-0",
    description="scGPT of the whole human body, 33 million cells; the one its authors recommend.",
)

_SCGPT = (
    _SCGPT_HUMAN,
    replace(
        _SCGPT_HUMAN,
        name="scgpt-continual-pretrained",
        source=_scgpt("1_GROJTzXiAV8HB4imruOTk6PEGuNOcgB"),
        description="scGPT trained further for embedding cells without fine-tuning.",
    ),
    replace(
        _SCGPT_HUMAN,
        name="scgpt-pan-cancer",
        source=_scgpt("13QzLHilYUd0v3HTwa_9n4G4yEF-hdkqa"),
        description="scGPT of cancers.",
    ),
    *(
        replace(
            _SCGPT_HUMAN,
            name=f"scgpt-{organ}",
            source=_scgpt(drive_folder),
            size=None,
            context=None,
            dims=None,
            description=f"scGPT of the {organ}.",
        )
        for organ, drive_folder in (
            ("brain", "1vf1ijfQSk7rGdDGpBntR5bi5g6gNt-Gx"),
            ("blood", "1kkug5C7NjvXIwQGGaGoqXTk_Lb_pDrBU"),
            ("heart", "1GcgXrd7apn6y4Ze_iSCncskX3UsWPY2r"),
            ("lung", "16A1DJ30PT6bodt4bWLa4hpS7gbWZQFBG"),
            ("kidney", "1S-1AR65DF120kNFpEbWCvRHPhpkGK3kK"),
        )
    ),
)


# TranscriptFormer: archives in a public bucket.


def _transcriptformer(folder: str) -> UrlSource:
    url = f"https://czi-transcriptformer.s3.amazonaws.com/weights/{folder}.tar.gz"
    return UrlSource(page=url, files=(RemoteFile(url, folder, archive=True),))


_TRANSCRIPTFORMER_SAPIENS = CatalogueEntry(
    name="transcriptformer-sapiens",
    family="transcriptformer",
    source=_transcriptformer("tf_sapiens"),
    size=430_000_000,
    species="human",
    gene_ids="ensembl",
    context=2047,
    dims=2048,
    licence="MIT",
    commercial_use=True,
    citation="Pearce et al. 2025, doi:10.1101/2025.04.25.650731",
    description="TranscriptFormer of human cells.",
)

_TRANSCRIPTFORMER = (
    _TRANSCRIPTFORMER_SAPIENS,
    replace(
        _TRANSCRIPTFORMER_SAPIENS,
        name="transcriptformer-exemplar",
        source=_transcriptformer("tf_exemplar"),
        size=824_000_000,
        species="human, mouse, zebrafish, fruit fly, C. elegans",
        description="TranscriptFormer of human and four model organisms.",
    ),
    replace(
        _TRANSCRIPTFORMER_SAPIENS,
        name="transcriptformer-metazoa",
        source=_transcriptformer("tf_metazoa"),
        size=1_080_000_000,
        species="12 species",
        description="TranscriptFormer of twelve species.",
    ),
)


# UCE: files of one figshare article, most of them shared by both models. Sizes and MD5 are those that figshare states.


def _figshare(number: int, path: str, *, size: int, md5: str, archive: bool = False) -> RemoteFile:
    # The address on the page, figshare.com/ndownloader, answers programs with an empty page.
    url = f"https://api.figshare.com/v2/file/download/{number}"
    return RemoteFile(url, path, md5=md5, size=size, archive=archive)


def _uce(weights: RemoteFile) -> UrlSource:
    return UrlSource(
        page="https://figshare.com/articles/dataset/Universal_Cell_Embedding_Model_Files/24320806",
        files=(
            _figshare(42706558, "species_chrom.csv", size=4_097_781, md5="42a9b5871b1ed955fd05414b3ab89081"),
            _figshare(42706555, "species_offsets.pkl", size=139, md5="ddf9143508857e62607f323b338ff383"),
            _figshare(
                42715213,
                "protein_embeddings",
                size=2_735_410_523,
                md5="6756d7fa8348e0f70b5e5b11e324f023",
                archive=True,
            ),
            weights,
        ),
    )


_UCE_4L = CatalogueEntry(
    name="uce-4l",
    family="uce",
    source=_uce(_figshare(42706576, "4layer_model.torch", size=3_403_514_339, md5="3e2f59d6da6eaa5396aa297edfcec08f")),
    size=849_000_000,
    species="human, mouse, frog, zebrafish, mouse lemur, pig, crab-eating macaque, rhesus macaque",
    gene_ids="symbol",
    context=1024,
    dims=1280,
    licence="CC-BY-4.0",
    commercial_use=True,
    citation="Rosen et al. 2023, doi:10.1101/2023.11.28.568918",
    description="Universal Cell Embedding, 4 layers.",
)

_UCE = (
    _UCE_4L,
    replace(
        _UCE_4L,
        name="uce-33l",
        source=_uce(
            _figshare(43423236, "33l_8ep_1024t_1280.torch", size=5_686_283_829, md5="eed62d4fe51873c87bcf9660faa07707")
        ),
        size=1_420_000_000,
        description="Universal Cell Embedding, 33 layers.",
    ),
)


_SCFOUNDATION = CatalogueEntry(
    name="scfoundation",
    family="scfoundation",
    source=ManualSource(
        page="https://github.com/biomap-research/scFoundation/tree/main/model",
        note="which links to a SharePoint folder; https://huggingface.co/genbio-ai/scFoundation has a copy",
        files=("models.ckpt", "OS_scRNA_gene_index.19264.tsv"),
        elsewhere=(("OS_scRNA_gene_index.19264.tsv", "https://github.com/biomap-research/scFoundation"),),
    ),
    size=119_000_000,
    species="human",
    gene_ids="symbol",
    context=19_264,
    dims=3072,
    licence="scFoundation model licence (non-commercial research)",
    commercial_use=False,
    citation="Hao et al. 2024, doi:10.1038/s41592-024-02305-7",
    description="scFoundation (xTrimoGene), values without binning.",
)

_CELLPLM = CatalogueEntry(
    name="cellplm-85m",
    family="cellplm",
    source=ManualSource(
        page="https://github.com/OmicsML/CellPLM",
        note="which links to a Dropbox folder",
        files=("20230926_85M.config.json", "20230926_85M.best.ckpt"),
    ),
    size=85_000_000,
    gene_ids="ensembl",
    dims=512,
    licence="BSD-2-Clause (code)",
    citation="Wen et al. 2024, doi:10.1101/2023.10.03.560734",
    description="CellPLM, in which the cells of a batch see each other.",
)

ELSEWHERE = (*_SCGPT, *_TRANSCRIPTFORMER, *_UCE, _SCFOUNDATION, _CELLPLM)
