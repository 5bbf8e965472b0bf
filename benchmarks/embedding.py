"""Embedding throughput and memory of `sfm.tl.embed` against padded BertForMaskedLM on the same weights.

    taskset -c 0 env OMP_NUM_THREADS=1 python benchmarks/embedding.py --cells 64 --h5ad pbmc3k.h5ad
    taskset -c 0 env OMP_NUM_THREADS=1 python benchmarks/embedding.py --shape 104M --cells 4 --batch-size 4

The rival is what Geneformer users run today: transformers' `BertForMaskedLM` with SDPA attention, cells sorted by length
and padded to the longest of the minibatch, mean of the last hidden states. Each variant runs in its own process;
ratios are of one run. The limit is the best rate of a matrix product of the width of the model, of MKL and of oneDNN,
measured in the same process; what counts as work are the operations on real tokens, without padding and output layer.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from rows import Row, write_rows

SHAPES = {
    "tiny": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512},
    "10M": {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 512},
    "104M": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
}
VOCAB, MAX_LENGTH = 25_426, 2048


def simulated_cells(n_cells: int, median_genes: float, seed: int = 0) -> list[np.ndarray]:
    """Token ids of cells with lognormal lengths."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(np.log(median_genes), 0.45, n_cells), 50, MAX_LENGTH).astype(int)
    return [rng.choice(VOCAB - 4, length, replace=False).astype(np.int32) + 4 for length in lengths]


def real_cells(path: str, n_cells: int) -> list[np.ndarray]:
    """Rank tokens of the first cells of a file."""
    import anndata as ad

    import sfm

    adata = ad.read_h5ad(path)[:n_cells].copy()
    sfm.pp.tokenize(adata, "rank", max_length=MAX_LENGTH)
    tokens = adata.obsm["tokens"]
    return [row % (VOCAB - 4) + 4 for row in np.split(tokens.data, tokens.indptr[1:-1])]


def make_model(shape: str):
    """One set of random weights, as a cell model."""
    import torch

    from sfm.nn import CellConfig, CellForMaskedLM, backbone_config

    torch.manual_seed(0)
    sizes = backbone_config("bert", max_length=MAX_LENGTH, hidden_act="relu", **SHAPES[shape])
    config = CellConfig(vocab_size=VOCAB, backbone_config=sizes, special_token_ids=[0, 1, 2, 3])
    return CellForMaskedLM(config).eval()


def as_bert(model):
    """The same weights as transformers' own BertForMaskedLM."""
    from transformers import BertConfig, BertForMaskedLM

    settings = model.config.backbone_config.to_dict() | {"vocab_size": VOCAB}
    bert = BertForMaskedLM(BertConfig(**settings)).eval()
    weights = model.cell.backbone.state_dict()
    bert.bert.load_state_dict(weights, strict=False)
    bert.bert.embeddings.word_embeddings.weight.data.copy_(model.cell.embedder.genes.weight.data)
    return bert


def operations(shape: str, cells: list[np.ndarray]) -> float:
    """Multiplications and additions in matrix products that the vectors of these cells need."""
    sizes = SHAPES[shape]
    hidden, inner = sizes["hidden_size"], sizes["intermediate_size"]
    lengths = np.array([len(cell) for cell in cells], dtype=float)
    per_layer = lengths * (8 * hidden**2 + 4 * hidden * inner) + 4 * lengths**2 * hidden
    return sizes["num_hidden_layers"] * per_layer.sum()


def product_limit(shape: str, precision: str) -> float:
    """Best rate of a matrix product, operations per second of processor time."""
    import torch

    from sfm.inference._precision import matmul_precision

    hidden, rows = SHAPES[shape]["hidden_size"], 1024
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x, weight = torch.randn(rows, hidden, dtype=dtype), torch.randn(2 * hidden, hidden, dtype=dtype)
    best = np.inf
    for path in 10 * ["highest", "medium"]:
        with torch.inference_mode(), matmul_precision(path):
            start = time.process_time()
            for _ in range(4):
                torch.nn.functional.linear(x, weight)
            best = min(best, (time.process_time() - start) / 4)
    return 4 * rows * hidden**2 / best


def run_rival(
    shape: str, cells: list[np.ndarray], batch_size: int, _precision: str, *, in_order: bool = False
) -> tuple[np.ndarray, float]:
    """Padded minibatches through BertForMaskedLM, longest cells first, or in the order of the cells as helical does."""
    import torch

    bert = as_bert(make_model(shape))
    order = np.arange(len(cells)) if in_order else np.argsort([-len(cell) for cell in cells])
    result = np.zeros((len(cells), SHAPES[shape]["hidden_size"]), dtype=np.float32)
    start = time.process_time()
    with torch.inference_mode():
        for i in range(0, len(order), batch_size):
            rows = order[i : i + batch_size]
            longest = max(len(cells[row]) for row in rows)
            ids, mask = torch.zeros(2, len(rows), longest, dtype=torch.long)
            for j, row in enumerate(rows):
                ids[j, : len(cells[row])] = torch.from_numpy(cells[row].astype(np.int64))
                mask[j, : len(cells[row])] = 1
            hidden = bert(ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
            result[rows] = ((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).numpy()
    return result, time.process_time() - start


def run_sfm(shape: str, cells: list[np.ndarray], _batch_size: int, precision: str) -> tuple[np.ndarray, float]:
    """The loop of tl.embed."""
    from sfm.inference import embed_tokens
    from sfm.tokenizers import TokenizedCells

    model = make_model(shape)
    indptr = np.concatenate([[0], np.cumsum([len(cell) for cell in cells])])
    tokens = TokenizedCells(np.concatenate(cells), indptr, max_length=MAX_LENGTH)
    start = time.process_time()
    result = embed_tokens(model, tokens, pad_id=0, device="cpu", precision=precision)
    return result, time.process_time() - start


def child(args: argparse.Namespace) -> None:
    """Run one variant and report its time and memory."""
    import torch

    torch.set_num_threads(1)
    cells = real_cells(args.h5ad, args.cells) if args.h5ad else simulated_cells(args.cells, args.genes)
    run = {"rival": partial(run_rival, in_order=args.in_order), "sfm": run_sfm}[args.variant]
    run(args.shape, [cell[:50] for cell in cells[:2]], 2, args.precision)  # imports, first allocations
    limits = [product_limit(args.shape, args.precision)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    vectors, seconds = run(args.shape, cells, args.batch_size, args.precision)
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    limits.append(product_limit(args.shape, args.precision))
    np.save(args.vectors, vectors)
    work = operations(args.shape, cells)
    measured = {"seconds": seconds, "extra_mb": extra, "rate": work / seconds, "limit": max(limits)}
    print(json.dumps({**measured, "tokens": sum(map(len, cells))}))


def measure(args: argparse.Namespace, variant: str, vectors: Path) -> dict[str, float]:
    """Run a variant in a process of its own."""
    command = [sys.executable, __file__, "--variant", variant, "--vectors", str(vectors)]
    command += [f"--{name}={getattr(args, name)}" for name in ("cells", "genes", "shape", "precision")]
    command += ["--batch-size", str(args.batch_size)] + (["--h5ad", args.h5ad] if args.h5ad else [])
    command += ["--in-order"] * args.in_order
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout
    return json.loads(output.splitlines()[-1])


def main() -> None:
    """Compare the variants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=64)
    parser.add_argument("--genes", type=float, default=1627, help="median genes per cell of the simulation")
    parser.add_argument("--h5ad", help="real cells instead of simulated ones")
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--batch-size", type=int, default=8, help="cells per minibatch of the rival")
    parser.add_argument("--in-order", action="store_true", help="do not sort the rival's cells, as helical does not")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of sfm; the rival has fp32")
    parser.add_argument("--json", help="where to write the line of the table")
    parser.add_argument("--variant", choices=["rival", "sfm"], help=argparse.SUPPRESS)
    parser.add_argument("--vectors", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        child(args)
        return
    from sfm.inference._precision import choose_precision

    args.precision = choose_precision(args.precision, "cpu")
    with TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.npy" for name in ("rival", "sfm")}
        # In turns, so that a change of the processor's clock meets both.
        runs = [{name: measure(args, name, file) for name, file in files.items()} for _ in range(args.repeats)]
        rival, ours = (np.load(file) for file in files.values())  # noqa: TID251 - arrays of this very run
    report(args, runs, rival, ours)


def report(args: argparse.Namespace, runs: list[dict], rival: np.ndarray, ours: np.ndarray) -> None:
    """Print rates, memory and how far the vectors are apart."""
    tokens = runs[0]["sfm"]["tokens"] / args.cells
    print(f"{args.shape}, {args.cells} cells, {tokens:.0f} tokens per cell, {args.precision}, one core")
    for name in ("rival", "sfm"):
        typical = {key: median(run[name][key] for run in runs) for key in ("seconds", "extra_mb", "rate")}
        share = median(run[name]["rate"] / run[name]["limit"] for run in runs)
        print(
            f"{name:>6}: {args.cells / typical['seconds']:7.2f} cells per CPU second, "
            f"{typical['rate'] / 1e9:5.0f} GFLOP/s, {share:4.0%} of the limit, {typical['extra_mb']:6.0f} MB extra"
        )
    limit = median(run["sfm"]["limit"] for run in runs)
    ratio = median(run["rival"]["seconds"] / run["sfm"]["seconds"] for run in runs)
    cosine = (rival * ours).sum(axis=1) / np.linalg.norm(rival, axis=1) / np.linalg.norm(ours, axis=1)
    print(
        f"limit {limit / 1e9:.0f} GFLOP/s, ratio {ratio:.1f}, largest difference of a vector "
        f"{np.abs(rival - ours).max():.1e}, smallest cosine {cosine.min():.7f}"
    )
    rates = {name: median(run[name]["rate"] for run in runs) / 1e9 for name in ("rival", "sfm")}
    what = f"embedding, {args.shape}, {args.precision}, {tokens:,.0f} tokens per cell"
    peer = "BertForMaskedLM, SDPA, in order, as helical" if args.in_order else "BertForMaskedLM, SDPA, sorted"
    write_rows([Row(what, "GFLOP/s", peer, rates["sfm"], rates["sfm"] / ratio, limit / 1e9)], args.json)


if __name__ == "__main__":
    main()
