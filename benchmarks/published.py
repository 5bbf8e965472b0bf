"""Embedding with published models against running them as their own code does, on the same random weights.

    taskset -c 0 env OMP_NUM_THREADS=1 python benchmarks/published.py

Layers have their real width, two of them instead of all (four of Geneformer, which reads cells from the last but one), and
20,000 genes; cells are simulated, with the lengths of real
ones. "As published" means: cells in their order, minibatches padded to the longest cell or to the length that the family
always runs at, eager attention. `--only NAME` runs one family, `--cells N` more cells.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import Row, write_rows

import sfm
from sfm.data._loader import collate
from sfm.inference import embed_tokens
from sfm.tokenizers import TokenizedCells

GOLDENS = Path(__file__).parents[1] / "tests" / "goldens"
N_GENES = 20_000
# Protein embeddings, of all tokens in one run.
TABLE = {"table_width": 5120, "table_segments": [[0, N_GENES + 10]]}


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
    fixed_length: bool = False
    """Whether all cells have as many tokens."""
    n_layers: int = 2
    """Layers, fewer than published."""


def sizes(width: int, heads: int, feedforward: int) -> dict[str, int]:
    """Name the sizes of a backbone."""
    return {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": feedforward}


SHAPES = {
    "geneformer-v1-10m": Shape("geneformer/A_v1/model", sizes(256, 4, 512), 2048, n_layers=4),
    "geneformer-v2-104m": Shape("geneformer/A_v2/model", sizes(768, 12, 3072), 4096, n_layers=4),
    "scgpt-human": Shape("scgpt/model", sizes(512, 8, 512), 1200),
    "tahoe-x1-70m": Shape("tahoe_x1/70m-model", sizes(512, 8, 2048), 2048),
    "transcriptformer-sapiens": Shape(
        "transcriptformer/checkpoint",
        sizes(2048, 16, 2048),
        2048,
        {"seq_len": 2047, "gene_rows": N_GENES, "protein_size": 2560},
        always_full=True,
        batch_size=1,
    ),
    "nicheformer": Shape("nicheformer/checkpoint", sizes(512, 16, 1024), 1500, always_full=True),
    "uce-4l": Shape("uce/model_files", sizes(1280, 20, 5120), 1536, dict(TABLE), {"n_heads": 4}, batch_size=2),
    "state-se-600m": Shape(
        "state_se/checkpoint", sizes(2048, 16, 2048), 2049, dict(TABLE), batch_size=1, fixed_length=True
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


def build(shape: Shape) -> Any:
    """Make a model of the real width with random weights."""
    with tempfile.TemporaryDirectory() as folder:
        config = sfm.load(directory_of(shape, Path(folder)), **shape.options).model.config
    config.backbone_config.update(
        {**shape.backbone, "num_hidden_layers": shape.n_layers, "max_position_embeddings": 20_000}
    )
    config.vocab_size = max(N_GENES + 10, config.vocab_size)
    config.architecture_settings |= shape.settings
    torch.manual_seed(0)
    return sfm.nn.CellModel(config).eval()


def simulate(shape: Shape, model: Any, n_cells: int) -> TokenizedCells:
    """Draw cells of lognormal length, 1,200 genes on average, cut at the context."""
    rng = np.random.default_rng(0)
    n_special = 3
    lengths = np.clip(rng.lognormal(np.log(1000), 0.6, n_cells).astype(int), 50, shape.context)
    if shape.fixed_length:
        lengths[:] = shape.context
    genes = np.setdiff1d(np.arange(N_GENES), model.config.special_token_ids)
    cells = [rng.choice(genes, size=min(length, len(genes)), replace=False) for length in lengths]
    for cell in cells:
        cell[:n_special] = np.sort(cell[:n_special])
    values = rng.integers(1, 50, size=sum(map(len, cells))).astype(np.float32)
    return TokenizedCells(
        np.concatenate(cells), np.cumsum([0, *map(len, cells)]), values=values, max_length=shape.context
    )


@torch.inference_mode()
def as_published(shape: Shape, model: Any, cells: TokenizedCells) -> np.ndarray:
    """Run minibatches of cells in their order, padded as the published code pads them, with eager attention."""
    model.set_attn_implementation("eager")
    vectors = []
    for start in range(0, len(cells), shape.batch_size):
        rows = np.arange(start, min(start + shape.batch_size, len(cells)))
        minibatch = collate(cells, rows, pad_id=model.config.pad_token_id)
        if shape.always_full:
            missing = shape.context - minibatch["input_ids"].shape[1]
            pads = {"input_ids": model.config.pad_token_id or 0, "attention_mask": 0, "values": 0.0}
            minibatch = {
                name: torch.nn.functional.pad(tensor, (0, missing), value=pads[name])
                for name, tensor in minibatch.items()
            }
        # All layers of all tokens, as the published code computes them.
        states = model(**minibatch, output_hidden_states=True).hidden_states[model.config.hidden_layer]
        tokens = minibatch["input_ids"], minibatch["attention_mask"]
        vectors.append(model.pool(states, *tokens, pooling=None).numpy())
    model.set_attn_implementation("sdpa")
    return np.concatenate(vectors)


def measure(name: str, n_cells: int) -> list[Row]:
    """Time both ways, in processor time, and compare their vectors."""
    shape = SHAPES[name]
    model = build(shape)
    cells = simulate(shape, model, n_cells)
    options: dict[str, Any] = {"pad_id": model.config.pad_token_id, "device": "cpu"}
    embed_tokens(model, cells[:1], **options)
    start = time.process_time()
    ours = embed_tokens(model, cells, **options)
    middle = time.process_time()
    theirs = as_published(shape, model, cells)
    end = time.process_time()
    rates = n_cells / (middle - start), n_cells / (end - middle)
    difference = float(np.abs(ours - theirs).max())
    print(
        f"{name:26s} {rates[0]:8.2f} cells/s, as published {rates[1]:8.2f}, ratio {rates[0] / rates[1]:5.1f}, "
        f"mean {cells.lengths.mean():6.0f} tokens, largest difference {difference:.1e}",
        flush=True,
    )
    return [
        Row(f"embedding, {name}, {shape.n_layers} layers", "cells/s", "as published: in order, padded, eager", *rates)
    ]


def main() -> None:
    """Measure all families."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(SHAPES), action="append")
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = [row for name in arguments.only or SHAPES for row in measure(name, arguments.cells)]
    if arguments.json:
        write_rows(rows, arguments.json)


if __name__ == "__main__":
    main()
