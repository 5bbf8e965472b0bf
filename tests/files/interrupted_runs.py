"""Runs of `embed_file` that are killed or run out of disk; run by test_embed_file_interrupted.

Each run is a forked process, so that torch is imported once, and all scenarios are run one after the other.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import sfm
from sfm.datasets import toy_cells, toy_model
from sfm.files._embed_file import embed_file

if TYPE_CHECKING:
    from collections.abc import Callable

torch.set_num_threads(1)  # a pool of threads would not outlive the fork
MODEL = toy_model(max_length=32)
KILLED = -signal.SIGKILL
FILE_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "shutil.copyfile"}


def in_child(function: Callable[[], object], *, kill_after: float | None = None) -> int:
    """Exit status of a process that runs a function; negative if a signal ended it."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - the child must not go on as its parent
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(1)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def watch_files(folder: Path, act: Callable[[int, str], None]) -> None:
    """Call `act` with the number of the step, and the file, before each operation of this process in a folder."""
    step = 0

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal step
        if event in FILE_EVENTS and str(folder) in str(args[0]):
            step += 1
            act(step - 1, str(args[0]))

    sys.addaudithook(hook)


def digest(path: Path) -> str:
    """Hash of a file, or of the names and contents of all files of a store."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    named = [f"{p.relative_to(path)} {hashlib.sha256(p.read_bytes()).hexdigest()}" for p in files]
    return hashlib.sha256("\n".join(named).encode()).hexdigest()


def every_step(folder: Path, suffix: str, copy_input: str) -> dict[str, object]:
    """Kill a run at its file operations, and let another one complete it."""
    sfm.settings.window_size = 10
    cells = folder / f"cells{suffix}"

    def embed(out: Path, act: Callable[[int, str], None] | None = None) -> None:
        if act is not None:
            watch_files(out.parent, act)
        embed_file(cells, MODEL, out, copy_input=copy_input == "copy")

    def run(out: Path, act: Callable[[int, str], None] | None = None) -> int:
        out.parent.mkdir(exist_ok=True)
        return in_child(lambda: embed(out, act))

    reference, seen = folder / "reference" / f"out{suffix}", folder / "seen"
    descriptor = os.open(seen, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    assert run(reference, lambda _, path: os.write(descriptor, f"{path}\n".encode())) == 0
    steps = chosen(seen.read_text().splitlines(), all_of_them=(suffix, copy_input) == (".h5ad", "no"))
    wrong = []
    for step in steps:
        out = folder / str(step) / f"out{suffix}"
        status = run(out, lambda now, _, step=step: os.kill(os.getpid(), signal.SIGKILL) if now == step else None)
        early = out.exists() and digest(out) != digest(reference)
        # Once nothing but the lock is left, the run is over: its output is there, and not replaced without asking.
        is_over = out.exists() and not {path.name for path in parts_of(out)} - {"lock", "writer.json"}
        again = run(out)
        left = sorted(path.name for path in out.parent.iterdir())
        if status != KILLED or early or again != is_over or left != [out.name] or digest(out) != digest(reference):
            wrong.append([step, status, early, is_over, again, left])
    return {"steps": steps, "wrong": wrong}


def chosen(paths: list[str], *, all_of_them: bool) -> list[int]:
    """All steps; or some from the last part to the finished output, the others being the same for all formats."""
    if all_of_them:
        return list(range(len(paths)))
    new = [i for i, path in enumerate(paths) if path.endswith(".new")]
    last_part = max(i for i in new if "/part-" in paths[i])
    finished = max(new) + 5  # "ready" is written, and the output gets its name
    return sorted({*range(last_part, finished, max((finished - last_part) // 2, 1)), *range(finished - 5, finished)})


def parts_of(out: Path) -> list[Path]:
    folder = out.with_name(f"{out.name}.parts")
    return list(folder.iterdir()) if folder.exists() else []


def any_moment(folder: Path, suffix: str, seed: str) -> dict[str, object]:
    """Kill run after run of the same call, each after another time, until one completes."""
    sfm.settings.window_size = 8
    cells, reference, out = (folder / f"{name}{suffix}" for name in ("cells", "reference", "out"))
    start = time.perf_counter()
    assert in_child(lambda: embed_file(cells, MODEL, reference)) == 0
    duration = time.perf_counter() - start
    rng = random.Random(int(seed))
    n_kills, early, parts = 0, False, []
    while True:
        longest = duration * (0.3 if n_kills < 8 else 3)
        status = in_child(lambda: embed_file(cells, MODEL, out), kill_after=rng.uniform(0.1, 1) * longest)
        if status != KILLED:
            break
        n_kills += 1
        if out.exists():
            early |= digest(out) != digest(reference)
            if not parts_of(out):  # killed when all was done
                status = 0
                break
        else:
            parts.append(len([path for path in parts_of(out) if path.suffix == ".safetensors"]))
    return {
        "status": status,
        "kills": n_kills,
        "early": early,
        "parts": parts,
        "same": digest(out) == digest(reference),
    }


def full_disk(folder: Path, suffix: str, n_bytes: str) -> dict[str, object]:
    """Run with a limit on the size of files, and then without."""
    sfm.settings.window_size = 64
    cells, reference, out = (folder / f"{name}{suffix}" for name in ("cells", "reference", "out"))
    assert in_child(lambda: embed_file(cells, MODEL, reference)) == 0
    before, message = digest(cells), folder / "message"
    limit = int(n_bytes)

    def limited() -> None:
        fd = os.open(message, os.O_CREAT | os.O_WRONLY)
        os.dup2(fd, 2)
        # The signal would end the process; ignored, it is the error of a full disk.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        embed_file(cells, MODEL, out)

    status = in_child(limited)
    parts = sorted(path.name for path in folder.glob(f"out{suffix}.parts/*"))
    again = in_child(lambda: embed_file(cells, MODEL, out))
    return {
        "status": status,
        "message": message.read_text(),
        "parts": parts,
        "input unchanged": digest(cells) == before,
        "again": again,
        "same": digest(out) == digest(reference),
    }


SCENARIOS = [
    (every_step, ".h5ad", "no"),
    (every_step, ".h5ad", "copy"),
    (every_step, ".zarr", "no"),
    (every_step, ".zarr", "copy"),
    (any_moment, ".h5ad", "0"),
    (any_moment, ".h5ad", "1"),
    (full_disk, ".h5ad", "2500"),
    (full_disk, ".h5ad", "6000"),
]
N_CELLS = {every_step: 20, any_moment: 240, full_disk: 160}


def main(parent: str) -> None:
    """Make the input of each scenario, run it, and print what came of it."""
    found = {}
    for scenario, suffix, option in SCENARIOS:
        name = f"{scenario.__name__} {suffix} {option}"
        folder = Path(parent) / name
        folder.mkdir()
        path = folder / f"cells{suffix}"
        getattr(toy_cells(N_CELLS[scenario], n_genes=60), f"write_{suffix[1:]}")(path)
        embed_file(path, MODEL, folder / f"first{suffix}")  # compiles, so that no child has to
        gc.freeze()  # or each child would copy what its collector looks at
        found[name] = scenario(folder, suffix, option)
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
