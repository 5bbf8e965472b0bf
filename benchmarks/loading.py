"""Shuffled minibatches per second on one core: a token cache beside other ways of reading cells for training.

Run ``python benchmarks/loading.py --cells 20000``. Each way runs in a process of its own, after one pass over some cells to
compile and to warm the page cache. Times are processor time, medians over ``--repeats`` passes; memory is the peak above
what was resident before the pass, pages of mapped files included.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from rows import Row, write_rows

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scipy import sparse

MINIBATCH = 64
MAX_LENGTH = 2048
# Blocks and their number that are mixed, as the datamodule has them.
BLOCK, MIXED = 1024, 16


def write_data(folder: Path, n_cells: int, n_genes: int) -> None:
    """Write simulated counts, and their tokens as a cache."""
    import anndata
    from tokenization import simulate, with_vocabulary

    import sfm
    from sfm.data._shards import CellShards

    data = with_vocabulary(simulate(n_cells, n_genes))
    names = np.empty(n_genes, dtype=object)
    names[:] = [data.vocabulary.gene_ids[i] for i in data.gene_ids - data.gene_ids.min()]
    adata = anndata.AnnData(data.counts)
    adata.var_names = names
    adata.write_h5ad(folder / "cells.h5ad")
    tokenizer = sfm.tokenizers.get_tokenizer("rank")(data.vocabulary, max_length=MAX_LENGTH)
    CellShards(folder / "cells.h5ad", tokenizer).to_cache(folder / "cache")


def _blocks(source: Any) -> Iterator[int]:
    from sfm.data._block_loader import BlockLoader
    from sfm.data._block_sampler import BlockSampler
    from sfm.data._block_split import BlockSplit

    split = BlockSplit(source.block_bounds(BLOCK), validation_size=0.0, by="cells", seed=0)
    sampler = BlockSampler(split, "train", batch_size=MINIBATCH, pool_size=BLOCK * MIXED)
    yield 0
    for minibatch in BlockLoader(source, sampler, pad_id=0):
        yield len(minibatch["input_ids"])


def token_cache(folder: Path) -> Iterator[int]:
    """Token cache, shuffled by blocks, minibatches of similar length."""
    from sfm.data._cache import TokenCache

    return _blocks(TokenCache(folder / "cache"))


def token_cache_anywhere(folder: Path) -> Iterator[int]:
    """Token cache, cells from anywhere, minibatches of similar length."""
    from sfm.data._cache import TokenCache
    from sfm.data._loader import token_loader
    from sfm.data._sampler import BucketSampler

    cache = TokenCache(folder / "cache")
    loader = token_loader(cache, pad_id=0, sampler=BucketSampler(cache.lengths, MINIBATCH))
    yield 0
    for minibatch in loader:
        yield len(minibatch["input_ids"])


def tokens_in_memory(folder: Path) -> Iterator[int]:
    """The same tokens in memory."""
    from sfm.data._cache import TokenCache
    from sfm.data._loader import token_loader
    from sfm.data._sampler import BucketSampler

    cells = TokenCache(folder / "cache")[:]
    yield 0
    for minibatch in token_loader(cells, pad_id=0, sampler=BucketSampler(cells.lengths, MINIBATCH)):
        yield len(minibatch["input_ids"])


def files_by_blocks(folder: Path) -> Iterator[int]:
    """Counts in h5ad, shuffled by blocks and tokenized when they are read."""
    from sfm.data._cache import TokenCache
    from sfm.data._shards import CellShards

    shards = CellShards(folder / "cells.h5ad", TokenCache(folder / "cache").tokenizer)
    yield from _blocks(shards)
    shards.close()


def _rows(n_cells: int) -> list[np.ndarray]:
    order = np.random.default_rng(0).permutation(n_cells)
    return [order[i : i + MINIBATCH] for i in range(0, n_cells, MINIBATCH)]


def _counts(folder: Path) -> sparse.csr_matrix:
    import anndata

    return anndata.read_h5ad(folder / "cells.h5ad").X


def scipy_rows(folder: Path) -> Iterator[int]:
    """Counts in memory, rows of a scipy CSR matrix (no tokens)."""
    X = _counts(folder)
    yield 0
    for rows in _rows(X.shape[0]):
        yield X[rows].shape[0]


def scipy_dense(folder: Path) -> Iterator[int]:
    """Counts in memory, rows of a scipy CSR matrix made dense (no tokens)."""
    X = _counts(folder)
    yield 0
    for rows in _rows(X.shape[0]):
        yield X[rows].toarray().shape[0]


def scvi_loader(folder: Path) -> Iterator[int]:
    """Counts in memory, scvi-tools' AnnDataLoader (dense, no tokens)."""
    import anndata
    import scvi

    adata = anndata.read_h5ad(folder / "cells.h5ad")
    scvi.model.SCVI.setup_anndata(adata)
    manager = scvi.model.SCVI._get_most_recent_anndata_manager(adata)
    loader = scvi.dataloaders.AnnDataLoader(manager, batch_size=MINIBATCH, shuffle=True)
    yield 0
    for minibatch in loader:
        yield len(minibatch["X"])


def backed_random(folder: Path) -> Iterator[int]:
    """Counts in h5ad, backed, random rows (no tokens)."""
    import anndata

    adata = anndata.read_h5ad(folder / "cells.h5ad", backed="r")
    yield 0
    for rows in _rows(adata.n_obs):
        yield adata.X[np.sort(rows)].shape[0]
    adata.file.close()


def backed_sequential(folder: Path) -> Iterator[int]:
    """Counts in h5ad, backed, one row after the other (no tokens)."""
    import anndata

    adata = anndata.read_h5ad(folder / "cells.h5ad", backed="r")
    yield 0
    for i in range(0, adata.n_obs, MINIBATCH):
        yield adata.X[i : i + MINIBATCH].shape[0]
    adata.file.close()


WAYS: dict[str, Callable[[Path], Iterator[int]]] = {
    way.__name__: way
    for way in (
        token_cache,
        token_cache_anywhere,
        tokens_in_memory,
        files_by_blocks,
        scipy_rows,
        scipy_dense,
        scvi_loader,
        backed_sequential,
        backed_random,
    )
}


def resident(field: str) -> int:
    """Bytes of a field of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure(name: str, folder: Path, *, repeats: int, limit: float) -> None:
    """Print cells per second of processor time and the peak of memory."""
    for _ in islice(WAYS[name](folder), 20):  # compile, and warm up
        pass
    rates, peak = [], 0
    for _ in range(repeats):
        minibatches = WAYS[name](folder)
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        next(minibatches)  # opening and reading into memory is not what is measured
        start, n_cells = time.process_time(), 0
        for n in minibatches:
            n_cells += n
            if time.process_time() - start > limit:
                break
        rates.append(n_cells / (time.process_time() - start))
        peak = max(peak, resident("VmHWM") - before)
        minibatches.close()
    sys.stdout.write(f"{median(rates)} {peak}\n")


def measured(name: str, folder: Path, options: argparse.Namespace) -> tuple[float, int]:
    """Run :func:`measure` in a fresh process."""
    command = [sys.executable, __file__, "--way", name, "--folder", str(folder), "--core", str(options.core)]
    command += ["--repeats", str(options.repeats), "--limit", str(options.limit)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    rate, peak = done.stdout.split()[-2:]
    return float(rate), int(peak)


def report(folder: Path, options: argparse.Namespace) -> list[Row]:
    """Print the table, and return its rows: the token cache against each other way."""
    lines = [
        f"{options.cells} cells, minibatches of {MINIBATCH}, one core",
        f"{'cells/s':>10}{'ratio':>8}{'peak MB':>9}",
    ]
    first, rows = None, []
    for name, way in WAYS.items():
        rate, peak = measured(name, folder, options)
        first = first or rate
        what = (way.__doc__ or name).splitlines()[0].removesuffix(".")
        rows.append(Row("shuffled minibatches of a token cache on disk", "cells/s", what, first, rate))
        lines.append(f"{rate:10,.0f}{first / rate:8.1f}{peak / 2**20:9.0f}  {what}")
        print(lines[-1], file=sys.stderr, flush=True)
    sys.stdout.write("\n".join(lines) + "\n")
    return rows[1:]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=10.0, help="seconds after which a slow way is stopped")
    parser.add_argument("--core", type=int, default=0, help="core to run on")
    parser.add_argument("--folder", type=Path, help="folder to keep the data in; a temporary one by default")
    parser.add_argument("--json", help="where to write the lines of the table")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {options.core})
    if options.way:
        measure(options.way, options.folder, repeats=options.repeats, limit=options.limit)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "cache").exists():
            write_data(folder, options.cells, options.genes)
        write_rows(report(folder, options), options.json)


if __name__ == "__main__":
    main()
