"""Speed and memory of running a CellTypist model in sfm, against CellTypist itself on the same files.

    taskset -c 0 env OMP_NUM_THREADS=1 python benchmarks/celltypist.py --python OTHER/bin/python [--h5ad FILE --labels KEY]

CellTypist 1.7.1 fails on scikit-learn 1.9, so it runs under an interpreter of its own: an environment with
`celltypist==1.7.1 scikit-learn==1.6.1`. It also trains the models: one on all genes and one on selected features, of
simulated cells, or of the counts in `X` of an h5ad file with labels in `obs`. Both sides get the same log1p values from
a file and run in processes of their own. Times are processor time of the whole call, medians over `--repeats` after one
call on ten cells; memory is the peak above what was resident before. The second ratio leaves out reading the model and
finding the genes on both sides, which at CellTypist is a fixed cost of seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median

import anndata as ad
import numpy as np
from scipy import sparse

TRAINING_CELLS, N_TYPES, TOP_GENES = 3000, 12, 300
MODELS = ("all genes", "selected")


def simulated_cells(n_cells: int, n_genes: int) -> ad.AnnData:
    """Counts of types with genes of their own: lognormal depth, Zipf popularity."""
    rng = np.random.default_rng(0)
    popularity = rng.permutation(1 / np.arange(1, n_genes + 1))
    types = rng.integers(N_TYPES, size=n_cells)
    depth = rng.lognormal(np.log(0.195 * n_genes), 0.62, size=n_cells).astype(np.int64)
    own = np.where(rng.integers(3 * N_TYPES, size=n_genes) == np.arange(N_TYPES)[:, None], 4.0, 1.0)
    cumulative = np.cumsum(own * popularity, axis=1)
    rows = []
    for cell_type, count in zip(types, depth, strict=True):
        drawn = np.searchsorted(cumulative[cell_type] / cumulative[cell_type, -1], rng.random(count), side="right")
        rows.append(sparse.csr_matrix(np.bincount(drawn.clip(max=n_genes - 1), minlength=n_genes).astype(np.float32)))
    adata = ad.AnnData(sparse.vstack(rows, format="csr"))
    adata.var_names = [f"GENE{i}" for i in range(n_genes)]
    adata.obs["label"] = [f"type {i}" for i in types]
    return adata


def log1p(adata: ad.AnnData) -> ad.AnnData:
    """What CellTypist wants to be given."""
    import scanpy as sc

    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata


def model_path(folder: Path, name: str) -> Path:
    """Where a model is."""
    return folder / f"{name.replace(' ', '_')}.pkl"


def train(folder: Path) -> None:
    """Train the models, in CellTypist's environment."""
    import celltypist

    adata = ad.read_h5ad(folder / "query.h5ad")
    rows = np.random.default_rng(0).permutation(adata.n_obs)[:TRAINING_CELLS]
    adata = adata[np.sort(rows)].copy()
    for name in MODELS:
        options = {"feature_selection": True, "top_genes": TOP_GENES} if name == "selected" else {}
        labels = adata.obs["label"].to_numpy().astype(str)
        model = celltypist.train(adata, labels=labels, check_expression=False, max_iter=30, **options)
        model.write(str(model_path(folder, name)))


def run_celltypist(adata: ad.AnnData, path: Path):
    """Labels and decision values of CellTypist."""
    import celltypist

    said = celltypist.annotate(adata, model=celltypist.models.Model.load(str(path)))
    return said.predicted_labels["predicted_labels"].to_numpy().astype(str), said.decision_matrix.to_numpy()


def run_sfm(adata: ad.AnnData, path: Path):
    """Labels as `sfm.tl.annotate` gets them, and how to get decision values."""
    from sfm.annotation import CellTypistReference

    reference = CellTypistReference.read(path)
    return np.array(reference.labels)[reference.predict(adata).best], reference.decision_function


def resident(field: str) -> int:
    """Kilobytes of memory: now (`VmRSS`), or at the most (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def match_celltypist(adata: ad.AnnData, path: Path) -> None:
    """Find the genes as CellTypist does."""
    import celltypist

    np.isin(adata.var_names, celltypist.models.Model.load(str(path)).features)


def match_sfm(adata: ad.AnnData, path: Path) -> None:
    """Find the genes as sfm does."""
    from sfm.annotation import CellTypistReference
    from sfm.annotation._celltypist_genes import match_features

    match_features(adata.var_names.tolist(), CellTypistReference.read(path).parts)


def processor_seconds(function, *arguments) -> float:
    """Processor time of a call."""
    first = time.process_time()
    function(*arguments)
    return time.process_time() - first


def child(side: str, folder: Path, name: str, repeats: int) -> None:
    """Annotate in this process, and report time and memory."""
    warnings.simplefilter("ignore")
    run, match = (run_sfm, match_sfm) if side == "sfm" else (run_celltypist, match_celltypist)
    adata, path = ad.read_h5ad(folder / "query.h5ad"), model_path(folder, name)
    run(adata[:10].copy(), path)  # imports, first allocations
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    before = resident("VmRSS")
    first = time.process_time()
    labels, decision = run(adata, path)
    times = [time.process_time() - first]
    extra = (resident("VmHWM") - before) / 1024
    times += [processor_seconds(run, adata, path) for _ in range(repeats - 1)]
    matching = median([processor_seconds(match, adata, path) for _ in range(repeats)])
    if side == "sfm":
        decision = decision(adata)
    np.savez(folder / f"{side}.npz", labels=labels, decision=decision)
    print(json.dumps({"seconds": median(times), "extra_mb": extra, "matching": matching}))


def start(python: str, folder: Path, *arguments: str) -> str:
    """Run this script in an environment; return the last line that it prints."""
    # -P: this file must not be found where the package of its name is meant.
    command = [python, "-P", __file__, "--folder", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode:
        sys.exit(done.stderr)
    return (done.stdout.splitlines() or [""])[-1]


def compare(args: argparse.Namespace, folder: Path, name: str) -> None:
    """Run both sides on one model, and print a line of the table."""
    results, said = {}, {}
    for side, python in (("celltypist", args.python), ("sfm", sys.executable)):
        line = start(python, folder, "--side", side, "--model", name, "--repeats", str(args.repeats))
        results[side] = json.loads(line)
        with np.load(folder / f"{side}.npz") as stored:  # noqa: TID251 (opens no pickles unless told to)
            said[side] = dict(stored)
    n_cells = len(said["sfm"]["labels"])
    theirs, ours = results["celltypist"], results["sfm"]
    agreement = (said["sfm"]["labels"] == said["celltypist"]["labels"]).mean()
    difference = np.abs(said["sfm"]["decision"] - said["celltypist"]["decision"]).max()
    without = (theirs["seconds"] - theirs["matching"]) / (ours["seconds"] - ours["matching"])
    print(
        f"| {name} | {n_cells / theirs['seconds']:,.0f} | {n_cells / ours['seconds']:,.0f} | "
        f"{theirs['seconds'] / ours['seconds']:.1f} | {without:.1f} | {theirs['extra_mb']:,.0f} / {ours['extra_mb']:,.0f} MB | "
        f"{100 * agreement:.2f} % | {difference:.1e} |"
    )


def main() -> None:
    """Compare both sides on both models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="interpreter that has celltypist")
    parser.add_argument("--cells", type=int, default=4000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--h5ad", type=Path, help="counts to use instead of simulated ones")
    parser.add_argument("--labels", default="cell_type", help="column of obs with labels to train on")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=["sfm", "celltypist", "train"], help=argparse.SUPPRESS)
    parser.add_argument("--model", choices=MODELS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side == "train":
        train(args.folder)
    elif args.side:
        child(args.side, args.folder, args.model, args.repeats)
    else:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            adata = ad.read_h5ad(args.h5ad) if args.h5ad else simulated_cells(args.cells, args.genes)
            if args.h5ad:
                adata = ad.AnnData(
                    adata.X, obs={"label": np.array(adata.obs[args.labels], dtype=str)}, var=adata.var[[]]
                )
            log1p(adata).write_h5ad(folder / "query.h5ad")
            start(args.python, folder, "--side", "train")
            print(f"{adata.n_obs} cells x {adata.n_vars} genes, {adata.X.nnz / adata.n_obs:.0f} expressed per cell")
            print(
                "| model | CellTypist, cells/s | sfm, cells/s | ratio | without reading and matching | memory | labels | decision |"
            )
            print("|---|---|---|---|---|---|---|---|")
            for model in MODELS:
                compare(args, folder, model)


if __name__ == "__main__":
    main()
