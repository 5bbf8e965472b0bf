"""One table of all benchmarks of speed: ours, the peer's, the ratio, the limit of the machine, our share of it.

    taskset -c 0 env OMP_NUM_THREADS=1 python benchmarks/table.py --h5ad pbmc3k.h5ad

runs each script in its turn and writes `benchmarks/results/table.json` and `table.md`. `--quick` takes fewer cells.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from rows import Row, markdown, read_rows, write_rows

HERE = Path(__file__).parent
# Arguments of each run, and those that make it quick.
RUNS = [
    (["tokenization.py"], ["--cells", "3000", "--loop-cells", "1000"]),
    (["embedding.py", "--cells", "32"], ["--cells", "8", "--repeats", "1"]),
    (["embedding.py", "--cells", "32", "--in-order", "--batch-size", "10"], ["--cells", "8", "--repeats", "1"]),
    (["embedding.py", "--shape", "10M", "--cells", "16"], ["--cells", "4", "--repeats", "1"]),
    (["embedding.py", "--shape", "104M", "--cells", "4", "--batch-size", "4"], ["--cells", "2", "--repeats", "1"]),
    (["loading.py"], ["--cells", "5000", "--limit", "3"]),
]


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--h5ad", help="real cells, for the scripts that take them")
    parser.add_argument("--quick", action="store_true", help="fewer cells and repeats")
    arguments = parser.parse_args()
    runs = [[*run, *(fewer if arguments.quick else [])] for run, fewer in RUNS]
    if arguments.h5ad:
        real = ["--h5ad", arguments.h5ad]
        runs[0] += real
        runs.insert(4, [*runs[1], *real])
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for run in runs:
            path = Path(folder) / "rows.json"
            subprocess.run([sys.executable, str(HERE / run[0]), *run[1:], "--json", str(path)], check=True)
            rows += read_rows(path)
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    write_rows(rows, results / "table.json")
    (results / "table.md").write_text(markdown(rows) + "\n")
    print(markdown(rows))


if __name__ == "__main__":
    main()
