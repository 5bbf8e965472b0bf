"""Time and memory that the cost preview promises, against those of the run.

    taskset -c 0 env OMP_NUM_THREADS=1 python benchmarks/plan.py --h5ad pbmc3k.h5ad

Plan and run have a process of their own each. The run is timed from the call to its end, once the model is loaded; its
memory is the largest that the process had.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

TINY = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}


def make_model(name: str):
    """The bundled model, or one of random weights with its vocabulary."""
    import torch

    import sfm
    from sfm.nn import CellConfig, CellForMaskedLM, backbone_config

    mini = sfm.load("sfm-mini")
    if name == "sfm-mini":
        return mini
    torch.manual_seed(0)
    sizes = backbone_config("bert", max_length=mini.tokenizer.max_length, **TINY)
    model = CellForMaskedLM(CellConfig.for_tokenizer(mini.tokenizer, sizes)).eval()
    return sfm.PretrainedCells(model, mini.tokenizer, name=name)


def child(args: argparse.Namespace) -> None:
    """Plan or run, and report seconds and memory."""
    import anndata as ad

    from sfm.data._stream import stream_cells
    from sfm.files._embed_file import embed_file
    from sfm.inference._plan import plan_embedding
    from sfm.tl import embed

    model = make_model(args.model)
    adata = ad.read_h5ad(args.file) if args.function == "embed" else None
    start, start_cpu = time.perf_counter(), time.process_time()
    if args.child == "plan" and adata is None:
        plan = embed_file(args.file, model, dry_run=True)
    elif args.child == "plan":
        plan = plan_embedding(model, stream_cells(adata, model.tokenizer, model_name=args.model))
    elif adata is None:
        embed_file(args.file, model, Path(args.file).with_name(f"{time.time_ns()}.h5ad"))
    else:
        embed(adata, model)
    took, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    found = {"seconds": took, "cpu": cpu, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if args.child == "plan":
        found = {
            "seconds": plan.seconds,
            "memory": plan.peak_memory,
            "tokens": plan.n_tokens / plan.n_cells,
            "took": took,
        }
    print(json.dumps(found))


def measure(kind: str, file: Path, model: str, function: str) -> dict[str, float]:
    """Plan or run in a process of its own."""
    command = [sys.executable, __file__, "--child", kind, "--file", str(file), "--model", model, "--function", function]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


def write_cells(folder: Path, h5ad: str | None, n_real: int, n_simulated: int) -> dict[str, Path]:
    """Real cells and simulated ones, whose lengths differ more."""
    import anndata as ad

    from sfm.datasets import toy_cells

    files = {"simulated": folder / "simulated.h5ad"}
    toy_cells(n_simulated, n_genes=2000).write_h5ad(files["simulated"])
    if h5ad:
        name = Path(h5ad).stem
        files[name] = folder / f"{name}.h5ad"
        ad.read_h5ad(h5ad)[:n_real].write_h5ad(files[name])
    return files


def main() -> None:
    """Compare plan and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--h5ad", help="real cells")
    parser.add_argument("--cells", type=int, default=1500, help="number of real cells")
    parser.add_argument("--simulated", type=int, default=10_000, help="number of simulated cells")
    parser.add_argument("--models", nargs="+", default=["sfm-mini", "tiny"])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--child", choices=["plan", "run"], help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--function", choices=["embed", "embed_file"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args)
        return
    print(
        "| cells | model | function | tokens per cell | plan took | time planned / run | ratio | memory planned / run | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    with TemporaryDirectory() as folder:
        files = write_cells(Path(folder), args.h5ad, args.cells, args.simulated)
        for name, file in files.items():
            for model, function in zip(args.models, ("embed_file", "embed"), strict=False):
                pairs = [
                    [measure(kind, file, model, function) for kind in ("plan", "run")] for _ in range(args.repeats)
                ]
                mid = [{key: median(pair[i][key] for pair in pairs) for key in pairs[0][i]} for i in (0, 1)]
                plan, run = mid
                print(
                    f"| {name} | {model} | {function} | {plan['tokens']:.0f} | {plan['took']:.1f} s "
                    f"| {plan['seconds']:.0f} / {run['seconds']:.0f} s | {plan['seconds'] / run['seconds']:.2f} "
                    f"| {plan['memory'] / 1e6:.0f} / {run['memory'] / 1e6:.0f} MB | {plan['memory'] / run['memory']:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
