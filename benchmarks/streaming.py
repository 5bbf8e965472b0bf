"""Speed and memory of cells that are read from a file window by window, at two sizes each.

Run ``python benchmarks/streaming.py`` (20,000 and 100,000 cells tokenized, 200,000 embedded) or add ``--full`` (1,000,000
embedded). Cells are simulated on disk: for tokenizing over 20,000 genes, of which a cell has about 1,800; for embedding
short ones of about 60 genes over 2,000, since the model would take all the time. Each run is a process of its own that
samples its resident memory and may not hold more than ``--limit`` MB of data (``RLIMIT_DATA``). Tokens go to a token
cache on disk, vectors to a memory map, so that neither counts. Rates are cells per second of processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterator

_STEP = 10_000
_DISTINCT = 2_000
_POINTS = 100
KINDS = {"long": {"n_genes": 20_000, "depth": 0.195 * 20_000}, "short": {"n_genes": 2_000, "depth": 80}}
TASKS = {"tokenize": "long", "embed": "short"}


def draw(n_cells: int, *, n_genes: int, depth: float, seed: int) -> sparse.csr_matrix:
    """Draw counts with lognormal depth and Zipf popularity."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, n_genes + 1)
    cumulative = np.cumsum(np.random.default_rng(0).permutation(share) / share.sum())
    depths = rng.lognormal(np.log(depth), 0.62, size=n_cells).astype(np.int64)
    genes = np.searchsorted(cumulative, rng.random(depths.sum()), side="right").clip(max=n_genes - 1)
    cells = np.repeat(np.arange(n_cells), depths)
    counts = sparse.csr_matrix((np.ones(genes.size, np.float32), (cells, genes)), shape=(n_cells, n_genes))
    counts.sum_duplicates()
    return counts


def simulate(path: Path, n_cells: int, kind: str) -> None:
    """Write cells to an h5ad file or a zarr store, some at a time."""
    n_genes = int(KINDS[kind]["n_genes"])
    # Distinct cells throughout would take long to draw, and nothing here remembers a cell.
    cells = draw(_DISTINCT, **KINDS[kind], seed=0)
    rng = np.random.default_rng(1)
    parts = [cells[rng.integers(_DISTINCT, size=_STEP)] for _ in range(4)]
    with opened(path) as root:
        empty = ad.AnnData(
            obs=pd.DataFrame(index=np.arange(n_cells).astype(str)),
            var=pd.DataFrame(index=[f"gene{i}" for i in range(n_genes)]),
        )
        write_elem(root, "obs", empty.obs)
        write_elem(root, "var", empty.var)
        write_elem(root, "X", parts[0][:n_cells])
        stored = sparse_dataset(root["X"])
        for i, start in enumerate(range(_STEP, n_cells, _STEP), start=1):
            stored.append(parts[i % len(parts)][: n_cells - start])


def opened(path: Path) -> Any:
    """Return a context with the root group of a new file."""
    if path.suffix == ".h5ad":
        import h5py

        return h5py.File(path, "w")
    from contextlib import nullcontext

    import zarr

    return nullcontext(zarr.open_group(path, mode="w", zarr_format=3))


class Memory:
    """Resident memory of this process over time, in a thread."""

    def __init__(self, every: float = 0.05) -> None:
        self.every, self.seconds, self.megabytes = every, [], []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Memory:
        self.start = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.is_set():
            self.seconds.append(time.perf_counter() - self.start)
            self.megabytes.append(anonymous_megabytes())
            self._stop.wait(self.every)


def anonymous_megabytes() -> float:
    """Resident memory that is no copy of a file: memory maps can be dropped and do not count."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("RssAnon"))
    return int(kilobytes) / 1024


def run(task: str, path: Path, *, limit: int) -> dict[str, Any]:
    """Tokenize or embed a file in this process."""
    import resource

    work = TOKENIZE if task == "tokenize" else EMBED
    prepared = work["prepare"](path)
    base = anonymous_megabytes()
    resource.setrlimit(resource.RLIMIT_DATA, (limit << 20, limit << 20))
    warm_up(path, prepared)
    wall, cpu = time.perf_counter(), time.process_time()
    with Memory() as memory:
        n_cells = work["run"](path, prepared)
    return {
        "cells_per_second": n_cells / (time.process_time() - cpu),
        "cells_per_second_wall": n_cells / (time.perf_counter() - wall),
        "base": base,
        "peak": max(memory.megabytes),
        "curve": highest(np.array(memory.seconds), np.array(memory.megabytes) - base),
    }


def highest(seconds: np.ndarray, megabytes: np.ndarray) -> list[float]:
    """Return the most memory in each hundredth of the run; where none was sampled, that before."""
    bins = (seconds / seconds.max() * (_POINTS - 1e-9)).astype(int)
    found = pd.Series(megabytes).groupby(bins).max().reindex(range(_POINTS)).ffill()
    return found.round(1).tolist()


def make_tokenizer(n_genes: int) -> Any:
    """Make a rank tokenizer with a median for each gene."""
    import sfm

    medians = np.random.default_rng(1).lognormal(0, 0.5, size=n_genes)
    vocabulary = sfm.GeneVocabulary([f"gene{i}" for i in range(n_genes)], medians=medians)
    return sfm.tokenizers.RankTokenizer(vocabulary)


def warm_up(path: Path, prepared: Any) -> None:
    """Tokenize the first window, so that loading compiled code is no part of a rate."""
    from sfm.data import open_cells, stream_cells

    with open_cells(path) as adata:
        stream = stream_cells(adata, getattr(prepared, "tokenizer", prepared), model_name="The tokenizer")
        next(stream.windows())


def prepare_tokenizing(path: Path) -> Any:
    """Compile, and import what is needed."""
    from sfm.data._cache import TokenCache

    tokenizer = make_tokenizer(int(KINDS["long"]["n_genes"]))
    tokenizer(draw(50, **KINDS["long"], seed=0), tokenizer.vocabulary.token_ids)
    assert TokenCache
    return tokenizer


def tokenize(path: Path, tokenizer: Any) -> int:
    """Tokenize a file into a token cache."""
    from sfm.data import open_cells, stream_cells
    from sfm.data._cache import TokenCache

    with tempfile.TemporaryDirectory(dir=path.parent) as folder, open_cells(path) as adata:
        stream = stream_cells(adata, tokenizer, model_name="The tokenizer")
        TokenCache.write(f"{folder}/tokens", stream.windows(), tokenizer=tokenizer)
        return stream.n_obs


def prepare_embedding(path: Path) -> Any:
    """Make a tiny model and embed a few cells."""
    from sfm.checkpoints import PretrainedCells
    from sfm.inference._cells import embed_cells
    from sfm.nn import CellConfig, CellForMaskedLM, backbone_config

    kind = KINDS["short"]
    tokenizer = make_tokenizer(int(kind["n_genes"]))
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = CellForMaskedLM(CellConfig.for_tokenizer(tokenizer, backbone_config("bert", max_length=2048, **sizes)))
    pretrained = PretrainedCells(model.eval(), tokenizer, name="tiny")
    few = ad.AnnData(draw(100, **kind, seed=0), var=pd.DataFrame(index=[f"gene{i}" for i in range(kind["n_genes"])]))
    embed_cells(pretrained, few)
    return pretrained


def embed(path: Path, pretrained: Any) -> int:
    """Embed a file into a memory map."""
    from sfm.data import open_cells
    from sfm.inference._cells import embed_cells

    with open_cells(path) as adata, tempfile.NamedTemporaryFile(dir=path.parent) as file:
        shape = (adata.n_obs, pretrained.model.config.hidden_size)
        out = np.memmap(file.name, dtype=np.float32, mode="w+", shape=shape)
        # Minibatches of 2,048 tokens, as on the CPU by default, would leave so small a model idle.
        embed_cells(pretrained, adata, out=out, batch_size=512)
        return adata.n_obs


TOKENIZE = {"prepare": prepare_tokenizing, "run": tokenize}
EMBED = {"prepare": prepare_embedding, "run": embed}


def runs(*, full: bool, suffixes: list[str], only: str | None) -> Iterator[tuple[str, int, str]]:
    """Yield task, number of cells and kind of file."""
    sizes = {"tokenize": [20_000, 100_000], "embed": [200_000, 1_000_000] if full else [20_000, 200_000]}
    for task, counts in sizes.items():
        if only in (None, task):
            yield from ((task, n_cells, suffix) for suffix in suffixes for n_cells in counts)


def in_own_process(task: str, path: Path, *, limit: int) -> dict[str, Any]:
    """Run in a process of its own."""
    command = [sys.executable, __file__, "--run", task, str(path), "--limit", str(limit)]
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **one})
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def draw_curves(results: list[dict[str, Any]], path: Path) -> None:
    """Draw memory over the share of the run that is done."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tasks = list(dict.fromkeys(result["task"] for result in results))
    figure, axes = plt.subplots(1, len(tasks), figsize=(4.2 * len(tasks), 3.2), squeeze=False, layout="constrained")
    for axis, task in zip(axes[0], tasks, strict=True):
        for result in results:
            if result["task"] == task:
                label = f"{result['n_cells']:,} cells, {result['file']}"
                axis.plot(np.arange(_POINTS) + 0.5, result["curve"], label=label, linewidth=1)
        axis.set(xlabel="share of the run (%)", ylabel="most memory beyond imports (MB)", title=task, ylim=(0, None))
        axis.legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="embed 1,000,000 cells too")
    parser.add_argument("--only", choices=list(TASKS), help="one of the tasks")
    parser.add_argument("--formats", nargs="+", default=[".h5ad", ".zarr"], help="kinds of file")
    parser.add_argument("--directory", type=Path, help="where to simulate the files; default: a temporary directory")
    parser.add_argument("--limit", type=int, default=2048, help="most MB of data a run may hold")
    parser.add_argument(
        "--repeats", type=int, default=1, help="runs of each kind; the rate is the median, memory the most"
    )
    parser.add_argument("--figure", type=Path, help="where to draw memory over time")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--run", nargs=2, metavar=("TASK", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(run(options.run[0], Path(options.run[1]), limit=options.limit)))
        return
    results = []
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        print("| task | file | cells | cells/s | base, MB | peak beyond base, MB |\n|---|---|---:|---:|---:|---:|")
        for task, n_cells, suffix in runs(full=options.full, suffixes=options.formats, only=options.only):
            path = Path(folder) / f"{TASKS[task]}_{n_cells}{suffix}"
            simulate(path, n_cells, TASKS[task])
            repeats = [in_own_process(task, path, limit=options.limit) for _ in range(options.repeats)]
            result = sorted(repeats, key=lambda repeat: repeat["cells_per_second"])[len(repeats) // 2]
            results.append({"task": task, "n_cells": n_cells, "file": suffix, **result})
            rate, base = result["cells_per_second"], result["base"]
            growth = max(repeat["peak"] - repeat["base"] for repeat in repeats)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            print(f"| {task} | {suffix} | {n_cells:,} | {rate:,.0f} | {base:,.0f} | {growth:,.0f} |", flush=True)
    if options.figure:
        draw_curves(results, options.figure)
    if options.json:
        machine = {"machine": platform.processor() or platform.machine(), "limit": options.limit}
        options.json.write_text(json.dumps({**machine, "runs": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
