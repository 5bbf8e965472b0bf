"""Seconds that `import sfm` takes beyond `import anndata`, each in fresh processes.

python benchmarks/import_time.py
"""

from __future__ import annotations

import subprocess
import sys
from statistics import median

CODE = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def seconds(*modules: str, repeats: int = 7) -> float:
    """Median import time of modules, together."""
    command = [sys.executable, "-c", CODE.format(", ".join(modules))]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(repeats)]
    return median(float(run) for run in runs)


def main() -> None:
    """Print the table."""
    base = seconds("anndata")
    print(f"anndata {base:.2f} s, sfm beyond it {seconds('anndata', 'sfm') - base:+.3f} s")


if __name__ == "__main__":
    main()
