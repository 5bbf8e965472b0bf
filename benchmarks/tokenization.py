"""Tokenization speed and memory on one core, beside a loop over cells in numpy as other packages have it.

Run ``python benchmarks/tokenization.py --cells 20000 --genes 20000`` or ``--h5ad FILE`` with raw counts in ``X``.
Times are processor time, so that other work on the machine matters little: medians over ``--repeats`` runs in this
process, after one run to compile. Memory is the peak above what was resident before the call, in a process of its own,
as a multiple of the tokens and values returned. Two limits stand beside: sorting one 64-bit key per count, which whoever
compares has to do, and copying as many bytes as are read and written, which anybody has to do.

``--threads N`` measures in wall-clock time on N cores instead, against one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from rows import Row, write_rows
from scipy import sparse

import sfm

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

if TYPE_CHECKING:
    from collections.abc import Callable

    from sfm.tokenizers import TokenizedCells

TOKENIZERS = ("rank", "bins", "values")
MAX_LENGTH = 2048


@dataclass(frozen=True)
class Data:
    """Counts, token ids of their columns, and the vocabulary."""

    counts: sparse.csr_matrix
    gene_ids: np.ndarray
    vocabulary: sfm.GeneVocabulary

    @property
    def medians(self) -> np.ndarray:
        """Median of each column."""
        return self.vocabulary.medians[self.gene_ids - self.gene_ids.min()]


def simulate(n_cells: int, n_genes: int, *, seed: int = 0) -> sparse.csr_matrix:
    """Draw counts with lognormal depth and Zipf popularity: of 20,000 genes, about 1,800 in a cell, 76 % ones."""
    rng = np.random.default_rng(seed)
    popularity = 1 / np.arange(1, n_genes + 1)
    cumulative = np.cumsum(rng.permutation(popularity) / popularity.sum())
    depth = rng.lognormal(np.log(0.195 * n_genes), 0.62, size=n_cells).astype(np.int64)
    data, indices, lengths = [], [], []
    for count in depth:
        genes = np.searchsorted(cumulative, rng.random(count), side="right").clip(max=n_genes - 1)
        drawn, times = np.unique(genes, return_counts=True)
        data.append(times.astype(np.float32))
        indices.append(drawn.astype(np.int32))
        lengths.append(drawn.size)
    indptr = np.concatenate(([0], np.cumsum(lengths)))
    return sparse.csr_matrix((np.concatenate(data), np.concatenate(indices), indptr), shape=(n_cells, n_genes))


def with_vocabulary(counts: sparse.csr_matrix, *, seed: int = 1) -> Data:
    """Give every column a token and a median near its mean where expressed."""
    rng = np.random.default_rng(seed)
    expressed = np.maximum(np.asarray((counts > 0).sum(axis=0)).ravel(), 1)
    means = np.maximum(np.asarray(counts.sum(axis=0)).ravel() / expressed, 1)
    medians = means * rng.lognormal(0, 0.3, size=counts.shape[1])
    vocabulary = sfm.GeneVocabulary([f"gene{i}" for i in range(counts.shape[1])], medians=medians)
    return Data(counts, rng.permutation(vocabulary.token_ids), vocabulary)


def read_h5ad(path: Path) -> sparse.csr_matrix:
    """Read `X` as CSR."""
    import anndata

    return sparse.csr_matrix(anndata.read_h5ad(path).X)


def loop_rank(data: Data, counts: sparse.csr_matrix) -> list[np.ndarray]:
    """Normalise, divide by medians and sort, cell by cell."""
    scale = sparse.diags(1e4 / np.asarray(counts.sum(axis=1)).ravel())
    scores = sparse.csr_matrix(scale @ counts @ sparse.diags(1 / data.medians))
    tokens = []
    for i in range(scores.shape[0]):
        order = np.argsort(-scores[i].data)[: MAX_LENGTH - 1]
        tokens.append(np.concatenate(([2], data.gene_ids[scores[i].indices][order])).astype(np.int64))
    return tokens


def loop_bins(data: Data, counts: sparse.csr_matrix) -> list[tuple[np.ndarray, np.ndarray]]:
    """Bin by quantiles with a random draw among ties, and sort, cell by cell."""
    rng = np.random.default_rng(0)
    cells = []
    for i in range(counts.shape[0]):
        row = counts[i]
        edges = np.quantile(row.data, np.linspace(0, 1, 50))
        left, right = np.digitize(row.data, edges), np.digitize(row.data, edges, right=True)
        bins = np.ceil(rng.random(row.nnz) * (right - left) + left)
        order = np.argsort(-row.data)[: MAX_LENGTH - 1]
        cells.append((data.gene_ids[row.indices][order].astype(np.int64), bins[order]))
    return cells


def loop_values(data: Data, counts: sparse.csr_matrix) -> list[tuple[np.ndarray, np.ndarray]]:
    """Log-normalise and sort, cell by cell."""
    cells = []
    for i in range(counts.shape[0]):
        row = counts[i]
        order = np.argsort(-row.data)[: MAX_LENGTH - 1]
        values = np.log1p(row.data / row.data.sum() * 1e4)
        cells.append((data.gene_ids[row.indices][order].astype(np.int64), values[order]))
    return cells


LOOPS: dict[str, Callable[[Data, sparse.csr_matrix], list]] = {
    "rank": loop_rank,
    "bins": loop_bins,
    "values": loop_values,
}


def seconds(function: Callable[[], object], repeats: int, *, wall: bool = False) -> float:
    """Median processor time of a call, or of the clock on the wall."""
    now = time.perf_counter if wall else time.process_time
    times = []
    for _ in range(repeats):
        start = now()
        function()
        times.append(now() - start)
    return median(times)


def sort_bound(counts: sparse.csr_matrix, repeats: int) -> float:
    """Cells per second of sorting one uint64 per expressed gene and doing nothing else."""
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 1 << 63, size=counts.nnz, dtype=np.uint64)
    spans = list(zip(counts.indptr[:-1].tolist(), counts.indptr[1:].tolist(), strict=True))
    times = []
    for _ in range(repeats):
        fresh = keys.copy()
        start = time.process_time()
        for first, last in spans:
            fresh[first:last].sort()
        times.append(time.process_time() - start)
    return counts.shape[0] / median(times)


def copy_bound(counts: sparse.csr_matrix, cells: TokenizedCells, repeats: int) -> float:
    """Cells per second of copying as many bytes as are read and written, half of each, and doing nothing else."""
    written = sum(part.nbytes for part in (cells.input_ids, cells.values) if part is not None)
    source = np.ones((counts.data.nbytes + counts.indices.nbytes + written) // 2, dtype=np.uint8)
    target = np.ones_like(source)
    return counts.shape[0] / seconds(lambda: np.copyto(target, source), repeats)


def tokenizer_of(name: str, data: Data) -> Callable[[sparse.csr_matrix], TokenizedCells]:
    """Return a function of counts."""
    tokenizer = sfm.tokenizers.get_tokenizer(name)(data.vocabulary, max_length=MAX_LENGTH)
    return lambda counts: tokenizer(counts, data.gene_ids)


def output_bytes(cells: TokenizedCells) -> int:
    """Size of the matrices for `obsm`, per token: id, value and one position."""
    return sum(part.nbytes for part in (cells.input_ids, cells.values, cells.input_ids) if part is not None)


def resident(field: str) -> int:
    """Bytes of a field of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure_memory(name: str, path: Path) -> None:
    """Print the peak of one call above what was resident before it, and the size of the output."""
    data = with_vocabulary(sparse.load_npz(path))
    tokenize = tokenizer_of(name, data)
    tokenize(data.counts[:64])
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    cells = tokenize(data.counts)
    sys.stdout.write(f"{resident('VmHWM') - before} {output_bytes(cells)}\n")


def memory_of(name: str, path: Path) -> tuple[int, int]:
    """Run :func:`measure_memory` in a fresh process."""
    command = [sys.executable, __file__, "--memory-of", name, "--npz", str(path)]
    peak, output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(peak), int(output)


def report(title: str, counts: sparse.csr_matrix, *, repeats: int, loop_cells: int) -> list[Row]:
    """Print the table of one data set, and return its rows."""
    data = with_vocabulary(counts)
    n_cells, subset = counts.shape[0], counts[: min(loop_cells, counts.shape[0])]
    bound = sort_bound(counts, repeats)
    lines = [
        f"{title}: {n_cells} cells x {counts.shape[1]} genes, {counts.nnz / n_cells:.0f} per cell, "
        f"{np.mean(counts.data == 1):.0%} ones; the loop runs on {subset.shape[0]} cells; one core",
        f"sorting one uint64 per count alone: {bound:,.0f} cells/s",
        f"{'':8}{'loop cells/s':>14}{'sfm cells/s':>14}{'ratio':>8}{'of sorting':>12}{'of copying':>12}"
        f"{'peak MB':>10}{'of output':>11}",
    ]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "counts.npz"
        sparse.save_npz(path, counts, compressed=False)
        for name in TOKENIZERS:
            tokenize = tokenizer_of(name, data)
            tokenize(counts[:64])
            copying = copy_bound(counts, tokenize(counts), repeats)
            loop = subset.shape[0] / seconds(lambda name=name: LOOPS[name](data, subset), repeats)
            ours = n_cells / seconds(lambda tokenize=tokenize: tokenize(counts), repeats)
            peak, output = memory_of(name, path)
            rows.append(
                Row(f"tokenizing, {name}, {title}", "cells/s", "loop over cells, numpy argsort", ours, loop, bound)
            )
            lines.append(
                f"{name:8}{loop:14,.0f}{ours:14,.0f}{ours / loop:8.1f}{ours / bound:12.0%}{ours / copying:12.0%}"
                f"{peak / 2**20:10.0f}{peak / output:11.2f}"
            )
    sys.stdout.write("\n".join(lines) + "\n\n")
    return rows


def report_threads(counts: sparse.csr_matrix, *, n_threads: int, repeats: int) -> None:
    """Print the rates in wall-clock time on one core and on several, and whether the tokens are the same."""
    data = with_vocabulary(counts)
    for name in TOKENIZERS:
        tokenize = tokenizer_of(name, data)
        tokenize(counts[:64])
        rates, found = [], []
        for n in (1, n_threads):
            os.environ["OMP_NUM_THREADS"] = str(n)
            found.append(tokenize(counts))
            rates.append(counts.shape[0] / seconds(lambda tokenize=tokenize: tokenize(counts), repeats, wall=True))
        same = np.array_equal(found[0].input_ids, found[1].input_ids)
        sys.stdout.write(
            f"{name:8}{rates[0]:12,.0f} cells/s on one core,{rates[1]:12,.0f} on {n_threads} "
            f"({rates[1] / rates[0]:.2f}x), {'equal' if same else 'DIFFERENT'} tokens\n"
        )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--loop-cells", type=int, default=4_000, help="cells that the numpy loop runs on")
    parser.add_argument("--core", type=int, default=0, help="core to run on")
    parser.add_argument("--threads", type=int, default=1, help="cores to compare with one, in wall-clock time")
    parser.add_argument("--h5ad", type=Path, help="real raw counts to measure as well")
    parser.add_argument("--json", help="where to write the lines of the table")
    parser.add_argument("--npz", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--memory-of", choices=TOKENIZERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["NUMBA_NUM_THREADS"] = str(options.threads)
    if options.threads > 1:
        report_threads(simulate(options.cells, options.genes), n_threads=options.threads, repeats=options.repeats)
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {options.core})
    if options.memory_of:
        measure_memory(options.memory_of, options.npz)
        return
    settings = {"repeats": options.repeats, "loop_cells": options.loop_cells}
    rows = report("simulated", simulate(options.cells, options.genes), **settings)
    if options.h5ad:
        rows += report(options.h5ad.name, read_h5ad(options.h5ad), **settings)
    write_rows(rows, options.json)


if __name__ == "__main__":
    main()
