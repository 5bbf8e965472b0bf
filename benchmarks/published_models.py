"""Published models at their real width with random weights, cells for them, and what their own code computes beyond cells."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import sfm
from sfm.nn.architectures import get_architecture
from sfm.nn.architectures._transcriptformer import CountHead
from sfm.tokenizers import TokenizedCells

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    # Computes on `(hidden, minibatch)` what the published code computes and does not need for cells.
    Beyond = Callable[[Tensor, dict[str, Tensor]], Any]

GOLDENS = Path(__file__).parents[1] / "tests" / "goldens"
N_GENES = 20_000
# Protein embeddings, of all tokens in one run.
TABLE = {"table_width": 5120, "table_segments": [[0, N_GENES + 10]]}
DRAWS, CHROMOSOMES = 1024, 23


def gene_logits(model: Any) -> Beyond:
    """Logits of masked genes, of every token: Geneformer's cells come of its masked language model."""
    head = get_architecture(model.config.architecture).gene_head(model.config).eval()
    return lambda hidden, _: head(hidden, model.embedder.genes.weight)


def uce_decoder(model: Any) -> Beyond:
    """The decoder of every token, of which the first is read."""
    return lambda hidden, _: model.readout.decoder(hidden)


def state_decoder(model: Any) -> Beyond:
    """The decoder of every token, of which two are read."""
    return lambda hidden, _: model.readout.decode(hidden)


def transcriptformer_heads(model: Any) -> Beyond:
    """Counts and logits of every next gene, for which genes are embedded a second time."""
    counts = CountHead(model.config).eval()
    genes = get_architecture(model.config.architecture).gene_head(model.config).eval()

    def compute(hidden: Tensor, minibatch: dict[str, Tensor]) -> Tensor:
        ids = minibatch["input_ids"]
        counts(hidden, model.embedder(ids), ids)
        return genes(hidden, model.embedder.genes.weight)

    return compute


@dataclass(frozen=True)
class Shape:
    """The real sizes of a family."""

    golden: str
    """Directory of a small checkpoint in its layout, whose sizes are replaced."""
    backbone: dict[str, int]
    """Sizes of the backbone."""
    context: int
    """Most tokens."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Other sizes."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options that the small checkpoint needs to be read."""
    always_full: bool = False
    """Whether the published code pads every cell to the context."""
    batch_size: int = 4
    """Cells of its minibatches, fewer than published so that eager attention fits."""
    cells: str = "expressed"
    """Which tokens cells have: the genes that they express, all of the context, or genes drawn of those expressed."""
    n_layers: int = 2
    """Layers, fewer than published."""
    depth: int = 12
    """Layers as published."""
    beyond: Callable[[Any], Beyond] | None = None
    """Makes what the published code computes beyond cells."""


def sizes(width: int, heads: int, feedforward: int) -> dict[str, int]:
    """Name the sizes of a backbone."""
    return {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": feedforward}


SHAPES = {
    "geneformer-v1-10m": Shape(
        "geneformer/A_v1/model", sizes(256, 4, 512), 2048, n_layers=4, depth=6, beyond=gene_logits
    ),
    "geneformer-v2-104m": Shape("geneformer/A_v2/model", sizes(768, 12, 3072), 4096, n_layers=4, beyond=gene_logits),
    "scgpt-human": Shape("scgpt/model", sizes(512, 8, 512), 1200),
    "tahoe-x1-70m": Shape("tahoe_x1/70m-model", sizes(512, 8, 2048), 2048),
    "transcriptformer-sapiens": Shape(
        "transcriptformer/checkpoint",
        sizes(2048, 16, 2048),
        2048,
        {"seq_len": 2047, "gene_rows": N_GENES, "protein_size": 2560, "gene_head_size": 2048},
        always_full=True,
        batch_size=1,
        beyond=transcriptformer_heads,
    ),
    "nicheformer": Shape("nicheformer/checkpoint", sizes(512, 16, 1024), 1500, always_full=True),
    "uce-4l": Shape(
        "uce/model_files",
        sizes(1280, 20, 5120),
        1536,
        {**TABLE, "decoder_sizes": [1024, 1280, 1280, 1280]},
        {"n_heads": 4},
        batch_size=2,
        cells="drawn",
        n_layers=4,
        depth=4,
        beyond=uce_decoder,
    ),
    "state-se-600m": Shape(
        "state_se/checkpoint",
        sizes(2048, 16, 2048),
        2049,
        {**TABLE, "decoder_size": 4096, "cell_size": 2048},
        batch_size=1,
        cells="full",
        depth=16,
        beyond=state_decoder,
    ),
    "scfoundation": Shape("scfoundation", sizes(768, 12, 3072), 19266, batch_size=1),
}


def directory_of(shape: Shape, folder: Path) -> Path:
    """Directory of the small checkpoint; the gene list of scFoundation is made up."""
    if shape.golden != "scfoundation":
        return GOLDENS / shape.golden
    shutil.copy(GOLDENS / shape.golden / "models.ckpt", folder)
    lines = ["gene_name\tindex", *(f"G{i}\t{i}" for i in range(19_264))]
    (folder / "OS_scRNA_gene_index.19264.tsv").write_text("\n".join(lines) + "\n")
    return folder


def build(shape: Shape, n_layers: int) -> Any:
    """Make a model of the real width with random weights."""
    with tempfile.TemporaryDirectory() as folder:
        config = sfm.load(directory_of(shape, Path(folder)), **shape.options).model.config
    config.backbone_config.update({**shape.backbone, "num_hidden_layers": n_layers, "max_position_embeddings": 20_000})
    config.vocab_size = max(N_GENES + 10, config.vocab_size)
    config.architecture_settings |= shape.settings
    torch.manual_seed(0)
    return sfm.nn.CellModel(config).eval()


def simulate(shape: Shape, model: Any, n_cells: int) -> TokenizedCells:
    """Draw cells of lognormal length, 1,200 genes on average, cut at the context.

    How often genes are expressed is lognormal as well, so that cells share as many as those of pbmc3k do.
    """
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(1000), 0.6, n_cells).astype(int), 50, shape.context)
    if shape.cells == "full":
        lengths[:] = shape.context
    genes = np.setdiff1d(np.arange(N_GENES), model.config.special_token_ids)
    popularity = rng.lognormal(0, 2, len(genes))
    popularity /= popularity.sum()
    cells = [rng.choice(genes, size=length, replace=False, p=popularity) for length in lengths]
    if shape.cells == "drawn":  # and for each chromosome a token that opens and one that closes it
        cells = [rng.choice(cell, size=1 + DRAWS + 2 * CHROMOSOMES) for cell in cells]
    values = rng.integers(1, 50, size=sum(map(len, cells))).astype(np.float32)
    indptr = np.cumsum([0, *map(len, cells)])
    return TokenizedCells(np.concatenate(cells), indptr, values=values, max_length=shape.context)
