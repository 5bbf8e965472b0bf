"""Speed and memory of `sfm.tl.annotate` with many labelled cells, against CellTypist on the same cells.

    taskset -c 0 env OMP_NUM_THREADS=1 python benchmarks/annotation_speed.py --h5ad FILE --labels KEY --celltypist PYTHON

Reference and query are drawn with replacement from the cells of one file, which are embedded once; their vectors get some
noise. `PYTHON` is an interpreter whose environment has CellTypist; it trains on the cells of the file and annotates the same
query, which is normalised for it beforehand. Each variant runs in a process of its own, with as many cells as `--cells` and
with twice as many: the difference is what cells cost, the rest what is done once, such as calibration on reference cells.
Times are processor time; memory is the peak above what was resident before.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np

VARIANTS: dict[str, dict[str, Any]] = {
    "default, vectors stored": {},
    "knn, vectors stored, model alone": {"method": "knn", "views": "model"},
    "default, expression alone": {"views": "expression"},
}
CELLTYPIST = """
import json, resource, sys, time
import anndata as ad, celltypist, scanpy as sc
folder, n_cells = sys.argv[1], int(sys.argv[2])
cells, query = (ad.read_h5ad(f"{folder}/{name}.h5ad") for name in ("cells", "query"))
query = query[:n_cells].copy()
for adata in (cells, query):
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
model = celltypist.train(cells, "label", check_expression=False, n_jobs=1)
celltypist.annotate(query[:10].copy(), model)
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
celltypist.annotate(query, model)
print(json.dumps([time.process_time() - start, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024]))
"""


def drawn(cells: ad.AnnData, n_cells: int, seed: int) -> ad.AnnData:
    """Cells with replacement, and vectors that differ a little from theirs."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(cells.n_obs, size=n_cells)
    adata = ad.AnnData(cells.X[rows], obs={"label": cells.obs["label"].to_numpy()[rows]}, var=cells.var[[]])
    vectors = cells.obsm["X_sfm"]
    noise = 0.1 * vectors.std(axis=0) * rng.standard_normal((n_cells, vectors.shape[1]))
    adata.obsm["X_sfm"] = (vectors[rows] + noise).astype(np.float32)
    adata.uns["X_sfm"] = cells.uns["X_sfm"]
    return adata


def run_sfm(folder: Path, variant: str, n_cells: int) -> None:
    """Annotate in this process, and report time and memory."""
    import sfm

    warnings.simplefilter("ignore")
    reference, query = (ad.read_h5ad(folder / f"{name}.h5ad") for name in ("reference", "query"))
    query, few = query[:n_cells].copy(), query[:50].copy()
    sfm.tl.annotate(few, reference[:500].copy(), labels_key="label", **VARIANTS[variant])  # imports, first allocations
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    sfm.tl.annotate(query, reference, labels_key="label", **VARIANTS[variant])
    seconds = time.process_time() - start
    print(json.dumps([seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024]))


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds and megabytes that another process reports."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    seconds, extra_mb = json.loads(done.stdout.splitlines()[-1])
    return seconds, extra_mb


def prepare(args: argparse.Namespace, folder: Path) -> None:
    """Write the cells of the file, the reference and the query."""
    import sfm

    given = ad.read_h5ad(args.h5ad)
    cells = ad.AnnData(given.X, obs={"label": given.obs[args.labels].astype(str).to_numpy()}, var=given.var[[]])
    start = time.process_time()
    sfm.tl.embed(cells)
    print(f"embedding: {cells.n_obs / (time.process_time() - start):,.0f} cells/s", flush=True)
    drawn(cells, args.reference, 1).write_h5ad(folder / "reference.h5ad")
    drawn(cells, 2 * args.cells, 2).write_h5ad(folder / "query.h5ad")
    cells.write_h5ad(folder / "cells.h5ad")


def main() -> None:
    """Compare the variants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--h5ad", type=Path, help="labelled cells with counts in X")
    parser.add_argument("--labels", default="cell_type", help="column of obs")
    parser.add_argument("--celltypist", help="interpreter that has CellTypist")
    parser.add_argument("--cells", type=int, default=10_000, help="cells to label, and twice as many")
    parser.add_argument("--reference", type=int, default=50_000, help="labelled cells")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        run_sfm(args.folder, args.variant, args.cells)
        return
    with tempfile.TemporaryDirectory() as name:
        prepare(args, Path(name))
        ours = [sys.executable, __file__, "--folder", name, "--variant"]
        commands = {variant: [*ours, variant, "--cells"] for variant in VARIANTS}
        if args.celltypist:
            commands["CellTypist"] = [args.celltypist, "-P", "-c", CELLTYPIST, name]
        for variant, command in commands.items():
            (once, extra), (twice, extra_twice) = (measure([*command, str(n * args.cells)]) for n in (1, 2))
            print(
                f"{variant}: {args.cells / (twice - once):,.0f} cells/s, and {2 * once - twice:.1f} s once; "
                f"{args.cells / once:,.0f} cells/s in all; {extra:,.0f} and {extra_twice:,.0f} MB extra",
                flush=True,
            )


if __name__ == "__main__":
    main()
