"""Speed and memory of nearest-neighbour annotation against scikit-learn on the same vectors.

    taskset -c 0 env OMP_NUM_THREADS=1 python benchmarks/annotation.py --cells 4000

The rival is `KNeighborsClassifier(metric="cosine", algorithm="brute")`, which is exact as well, with the same weights of
the votes. Vectors are simulated: labels are apart, but overlap. Each variant runs in its own process, and with twice as
many cells to show how memory grows; ratios are of one run. Time is that of labelling cells, without that of the reference.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

N_NEIGHBORS = 15


def simulated_vectors(n_cells: int, n_dims: int, n_labels: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of cells around one centre per label, and the numbers of the labels."""
    centers = np.random.default_rng(0).standard_normal((n_labels, n_dims))
    rng = np.random.default_rng(seed)
    codes = rng.integers(n_labels, size=n_cells)
    return (centers[codes] + 4 * rng.standard_normal((n_cells, n_dims))).astype(np.float32), codes


def lead_over_the_next(distances: np.ndarray) -> np.ndarray:
    """Weights of the votes: how much nearer each neighbour is than the last, which has no vote."""
    return distances[:, -1:] - distances + 1e-6 * (np.arange(distances.shape[1]) < N_NEIGHBORS)


def run_rival(vectors: np.ndarray, codes: np.ndarray, query: np.ndarray) -> tuple[np.ndarray, float]:
    """Brute force of scikit-learn."""
    from sklearn.neighbors import KNeighborsClassifier

    options = {"metric": "cosine", "algorithm": "brute", "weights": lead_over_the_next}
    classifier = KNeighborsClassifier(N_NEIGHBORS + 1, **options).fit(vectors, codes)
    classifier.predict(query[:10])
    start = time.process_time()
    return classifier.predict(query), time.process_time() - start


def run_sfm(vectors: np.ndarray, codes: np.ndarray, query: np.ndarray) -> tuple[np.ndarray, float]:
    """The classifier of `method="knn"`, without whitening and votes of means, which the rival does not have."""
    from sfm.annotation._knn import NearestNeighbors

    classifier = NearestNeighbors(N_NEIGHBORS, weight_of_means=1e-9, whiten=False)
    classifier.fit(vectors, codes, n_labels=int(codes.max()) + 1)
    classifier.logits(query[:10])
    start = time.process_time()
    return classifier.logits(query).argmax(axis=1), time.process_time() - start


def child(args: argparse.Namespace) -> None:
    """Run one variant and report its time and memory."""
    import torch

    torch.set_num_threads(1)
    vectors, codes = simulated_vectors(args.reference, args.dims, args.labels, seed=1)
    query, _ = simulated_vectors(args.cells, args.dims, args.labels, seed=2)
    run = {"rival": run_rival, "sfm": run_sfm}[args.variant]
    run(vectors, codes, query[:500])  # imports, first allocations
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    labels, seconds = run(vectors, codes, query)
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    np.save(args.output, labels)
    print(json.dumps({"seconds": seconds, "extra_mb": extra}))


def measure(args: argparse.Namespace, variant: str, n_cells: int, output: Path) -> dict[str, float]:
    """Run a variant in a process of its own."""
    command = [sys.executable, __file__, "--variant", variant, "--output", str(output), "--cells", str(n_cells)]
    command += [f"--{name}={getattr(args, name)}" for name in ("reference", "dims", "labels")]
    output_text = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout
    return json.loads(output_text.splitlines()[-1])


def compare(args: argparse.Namespace, n_cells: int, folder: Path) -> None:
    """Run both variants on as many cells, and print one line for each."""
    files = {name: folder / f"{name}.npy" for name in ("rival", "sfm")}
    runs = {name: [measure(args, name, n_cells, file) for _ in range(args.repeats)] for name, file in files.items()}
    rival, ours = (np.load(file) for file in files.values())  # noqa: TID251 - arrays of this very run
    rates = {name: n_cells / median(run["seconds"] for run in done) for name, done in runs.items()}
    for name, done in runs.items():
        extra = median(run["extra_mb"] for run in done)
        print(f"{n_cells:>7} cells, {name:>5}: {rates[name]:8.0f} cells per CPU second, {extra:6.0f} MB extra")
    print(f"ratio {rates['sfm'] / rates['rival']:.1f}, same label for {np.mean(rival == ours):.4%} of the cells")


def main() -> None:
    """Compare the variants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=4000, help="cells to label, and twice as many")
    parser.add_argument("--reference", type=int, default=50_000, help="labelled cells")
    parser.add_argument("--dims", type=int, default=256)
    parser.add_argument("--labels", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--variant", choices=["rival", "sfm"], help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        child(args)
        return
    print(f"{args.reference} labelled cells, {args.dims} dimensions, {args.labels} labels, one core")
    with TemporaryDirectory() as folder:
        for n_cells in (args.cells, 2 * args.cells):
            compare(args, n_cells, Path(folder))


if __name__ == "__main__":
    main()
