"""Embedding with published models against running them as their own code does, on the same random weights.

    taskset -c 0 env OMP_NUM_THREADS=1 python benchmarks/published.py

Layers have their real width, two of them instead of all (four of Geneformer, which reads cells from the last but one, and
of UCE, which has four), and 20,000 genes; cells are simulated, with the lengths of real ones. "As published" means: cells
in their order, minibatches padded to the longest cell or to the length that the family always runs at, eager attention,
protein embeddings projected for each token, and the heads that the published code runs beside the cell.

The limit is the best rate of a matrix product of the model's shapes in the same run, of MKL and of oneDNN; the share of
it is what the operations of matrix products and attention, as they were run, leave of it. The ratio at the limit is what
sfm could reach if it did nothing but these operations at that rate.

`--only NAME` runs one family, `--cells N` more cells, `--full` all layers.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import torch
from published_models import SHAPES, Shape, build, simulate
from rows import Row, write_rows
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sfm.data._loader import collate
from sfm.inference import embed_tokens
from sfm.inference._precision import matmul_precision
from sfm.nn.architectures import _state_se, _transcriptformer, _transcriptformer_backbone, _uce

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sfm.tokenizers import TokenizedCells

PRODUCTS = {torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.bmm}


class Operations(TorchFunctionMode):
    """Counts the multiplications and additions of matrix products and attention that run inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run and count."""
        result = func(*args, **(kwargs or {}))
        if func is F.linear or func in PRODUCTS:
            self.count += 2 * result.numel() * args[0].shape[-1]
        elif func is F.scaled_dot_product_attention:
            self.count += 4 * args[0].numel() * args[1].shape[-2]
        return result


@contextmanager
def nothing_spared() -> Iterator[None]:
    """Project the protein embedding of each token, padding too, and let TranscriptFormer attend in one block."""
    with ExitStack() as stack:
        modules: list[Any] = [_state_se, _transcriptformer, _uce]
        for module in modules:
            stack.enter_context(patch.object(module, "embed_distinct", lambda embed, input_ids: embed(input_ids)))
        stack.enter_context(patch.dict(_transcriptformer_backbone._MAX_SCORES, cpu=1 << 40))
        yield


@torch.inference_mode()
def as_published(shape: Shape, model: Any, beyond: Any, cells: TokenizedCells) -> np.ndarray:
    """Run minibatches of cells in their order, padded as the published code pads them, with eager attention."""
    model.set_attn_implementation("eager")
    vectors = []
    for start in range(0, len(cells), shape.batch_size):
        rows = np.arange(start, min(start + shape.batch_size, len(cells)))
        minibatch = collate(cells, rows, pad_id=model.config.pad_token_id)
        if shape.always_full:
            missing = shape.context - minibatch["input_ids"].shape[1]
            pads = {"input_ids": model.config.pad_token_id or 0, "attention_mask": 0, "values": 0.0}
            minibatch = {name: F.pad(tensor, (0, missing), value=pads[name]) for name, tensor in minibatch.items()}
        # All layers of all tokens, as the published code computes them.
        with nothing_spared():
            states = model(**minibatch, output_hidden_states=True).hidden_states
            if beyond is not None:
                beyond(states[-1], minibatch)
        tokens = minibatch["input_ids"], minibatch["attention_mask"]
        vectors.append(model.pool(states[model.config.hidden_layer], *tokens, pooling=None).numpy())
    model.set_attn_implementation("sdpa")
    return np.concatenate(vectors)


def product_limit(shape: Shape, rows: int = 1024) -> float:
    """Best rate of a matrix product, operations per second of processor time."""
    width, inner = shape.backbone["hidden_size"], shape.backbone["intermediate_size"]
    x = torch.randn(rows, width)
    best = 0.0
    for path in 3 * ["highest", "medium"]:
        for n_out in (inner, 3 * width):
            weight = torch.randn(n_out, width)
            with torch.inference_mode(), matmul_precision(path):
                start = time.process_time()
                F.linear(x, weight)
                best = max(best, 2 * rows * width * n_out / (time.process_time() - start))
    return best


def timed(run: Callable[[], np.ndarray]) -> tuple[np.ndarray, float, int]:
    """Vectors, seconds of processor time, and operations."""
    with Operations() as operations:
        start = time.process_time()
        vectors = run()
        seconds = time.process_time() - start
    return vectors, seconds, operations.count


def measure(name: str, n_cells: int, repeats: int, *, full: bool) -> list[Row]:
    """Time both ways in turns, compare their vectors, and say what part of the limit each reaches."""
    shape = SHAPES[name]
    n_layers = shape.depth if full else shape.n_layers
    model = build(shape, n_layers)
    beyond = None if shape.beyond is None else shape.beyond(model)
    cells = simulate(shape, model, n_cells)
    options: dict[str, Any] = {"pad_id": model.config.pad_token_id, "device": "cpu"}
    embed_tokens(model, cells[:1], **options)
    ways = [partial(embed_tokens, model, cells, **options), partial(as_published, shape, model, beyond, cells)]
    best, limit = [np.inf, np.inf], 0.0
    vectors, counts = [np.empty(0)] * 2, [0, 0]
    for _ in range(repeats):
        for i, way in enumerate(ways):
            limit = max(limit, product_limit(shape))
            vectors[i], seconds, counts[i] = timed(way)
            best[i] = min(best[i], seconds)
    limit = max(limit, product_limit(shape))
    rates = [n_cells / seconds for seconds in best]
    shares = [count / seconds / limit for count, seconds in zip(counts, best, strict=True)]
    at_limit = n_cells * limit / counts[0]
    print(
        f"{name:25s} {n_layers:2d} layers, {cells.lengths.mean():5.0f} tokens | GFLOP per cell "
        f"{counts[0] / n_cells / 1e9:6.1f}, as published {counts[1] / n_cells / 1e9:6.1f} | cells/s {rates[0]:6.3f}, "
        f"as published {rates[1]:6.3f} | limit {limit / 1e9:3.0f} GFLOP/s, shares {shares[0]:4.0%}, {shares[1]:4.0%} | "
        f"ratio {rates[0] / rates[1]:4.1f}, at the limit {at_limit / rates[1]:4.1f} | "
        f"largest difference {np.abs(vectors[0] - vectors[1]).max():.1e}",
        flush=True,
    )
    peer = "as published: in order, padded, eager"
    return [Row(f"embedding, {name}, {n_layers} layers", "cells/s", peer, rates[0], rates[1], at_limit)]


def main() -> None:
    """Measure all families."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(SHAPES), action="append")
    parser.add_argument("--cells", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--full", action="store_true", help="all layers")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    options = {"full": arguments.full}
    names = arguments.only or list(SHAPES)
    rows = [row for name in names for row in measure(name, arguments.cells, arguments.repeats, **options)]
    if arguments.json:
        write_rows(rows, arguments.json)


if __name__ == "__main__":
    main()
