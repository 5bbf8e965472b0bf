"""The command line writes what the functions write, and says what went wrong in one line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

import sfm
from sfm.cli import main
from sfm.datasets import toy_cells, toy_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")

COMMANDS = ("embed", "tokenize", "annotate", "models")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some cells and a model."""
    made = tmp_path_factory.mktemp("made")
    toy_cells(60).write_h5ad(made / "cells.h5ad")
    toy_model(max_length=48).save_pretrained(made / "model")
    return made


@pytest.fixture(autouse=True)
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with some cells and a model."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sfm", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def two_halves() -> tuple[ad.AnnData, ad.AnnData]:
    """A query of 60 cells, and a reference like it."""
    cells = toy_cells(180)
    return cells[:60].copy(), cells[60:].copy()


def test_module_is_the_command() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout == f"sfm {sfm.__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom sfm.cli import main\n"
        "try:\n    main(['embed', '--help'])\nexcept SystemExit:\n    pass\n"
        "print(*sorted({'torch', 'anndata', 'numpy', 'pandas', 'scanpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--copy-input" in done.stdout
    assert done.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"usage: sfm {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [[], ["embed"], ["no-command"], ["embed", "cells.h5ad", "--batch-size", "x"], ["models", "-v", "-q"]]
)
def test_wrong_arguments_exit_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: sfm" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["out.h5ad", "out.zarr"])
def test_embed_writes_what_the_function_writes(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--pooling", "max", "--batch-size", "3", "--key-added", "X_mine", "--quiet"]
    assert main(["embed", "cells.h5ad", "--model", "model", "-o", out, *options]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    found, expected = getattr(ad, f"read_{out[4:]}")(out), toy_cells(60)
    sfm.tl.embed(expected, "model", pooling="max", batch_size=3, key_added="X_mine")
    assert np.array_equal(found.obsm["X_mine"], expected.obsm["X_mine"])
    assert dict(found.uns["X_mine"]["params"]) == expected.uns["X_mine"]["params"]


def test_plan_is_printed_and_nothing_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", "cells.h5ad", "--model", "model", "--plan"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "model on cpu (fp32)"
    assert printed[1].split() == ["cells", "60"]
    assert {path.name for path in folder.iterdir()} == {"cells.h5ad", "model"}


@pytest.mark.parametrize("copied", [False, True])
def test_tokenize_writes_what_the_function_writes(copied: bool) -> None:
    options = ["--copy-input"] if copied else []
    assert main(["tokenize", "cells.h5ad", "--tokenizer", "bins", "--max-length", "32", *options]) == 0
    found, expected = ad.read_h5ad("cells_tokenized.h5ad"), toy_cells(60)
    sfm.pp.tokenize(expected, "bins", max_length=32)
    for key in ("tokens", "tokens_values"):
        assert (found.obsm[key] != expected.obsm[key]).nnz == 0
    assert dict(found.uns["tokens"]["params"]) == expected.uns["tokens"]["params"]
    assert found.obs.equals(expected.obs)
    assert found.shape == (60, 300 if copied else 0)


@pytest.mark.parametrize("copied", [False, True])
def test_annotate_writes_what_the_function_writes(copied: bool) -> None:
    reference, expected = toy_cells(80, seed=1), toy_cells(60)
    reference.write_h5ad("reference.h5ad")
    options = ["--model", "model", "--method", "prototype", "--method", "knn", "--max-novelty", "0.99"]
    options += ["--views", "model"]
    options += ["--copy-input"] if copied else []
    assert main(["annotate", "cells.h5ad", "reference.h5ad", "-o", "out.h5ad", *options]) == 0
    found = ad.read_h5ad("out.h5ad")
    sfm.tl.annotate(expected, reference, model="model", method=["prototype", "knn"], views="model", max_novelty=0.99)
    assert found.obs["sfm_label"].astype(str).equals(expected.obs["sfm_label"].astype(str))
    assert set(found.obs) == set(expected.obs)
    np.testing.assert_allclose(found.obsm["sfm_label_probabilities"], expected.obsm["sfm_label_probabilities"])
    assert set(found.uns) == {"sfm_label"}
    assert found.shape == (60, 300 if copied else 0)


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (["--layer", "counts", "--reference-layer", "X"], {"layer": "counts", "reference_kwargs": {}}),
        (["--reference-layer", "lognorm", "--layer", "counts"], None),
        (["--use-raw", "--reference-layer", "X"], {"use_raw": True, "reference_kwargs": {}}),
        (["--reference-use-raw"], {"reference_kwargs": {"use_raw": True}}),
        (["--reference-gene-symbols", "name"], {"reference_kwargs": {"gene_symbols": "name"}}),
    ],
)
def test_annotate_reads_what_is_named_of_either_side(
    flags: list[str], options: dict[str, object] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    query, reference = two_halves()
    query.raw, query.layers["counts"] = query.copy(), query.X.copy()
    reference.raw, reference.layers["lognorm"] = reference.copy(), reference.X.log1p()
    reference.var["name"] = reference.var_names
    query.write_h5ad("cells.h5ad")
    reference.write_h5ad("reference.h5ad")
    done = main(["annotate", "cells.h5ad", "reference.h5ad", "-o", "out.h5ad", "--views", "expression", *flags])
    if options is None:
        assert done == 1
        assert "log1p-normalised" in capsys.readouterr().err
        return
    assert done == 0
    sfm.tl.annotate(query, reference, views="expression", **options)
    found = ad.read_h5ad("out.h5ad")
    assert found.obs["sfm_label"].astype(str).equals(query.obs["sfm_label"].astype(str))


@pytest.mark.parametrize(
    ("flags", "voting"), [(["--majority-voting"], True), (["--majority-voting", "cluster"], "cluster")]
)
def test_majority_voting_takes_a_column_or_makes_clusters(flags: list[str], voting: bool | str) -> None:
    pytest.importorskip("igraph")
    query, reference = two_halves()
    query.obs["cluster"] = [f"cluster {i % 4}" for i in range(60)]
    query.write_h5ad("cells.h5ad")
    reference.write_h5ad("reference.h5ad")
    assert main(["annotate", "cells.h5ad", "reference.h5ad", "-o", "out.h5ad", "--views", "expression", *flags]) == 0
    sfm.tl.annotate(query, reference, views="expression", majority_voting=voting)
    found = ad.read_h5ad("out.h5ad")
    assert found.uns["sfm_label"]["params"]["majority_voting"] == voting
    assert found.obs["sfm_label"].astype(str).equals(query.obs["sfm_label"].astype(str))


def test_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    assert "sfm-mini" in capsys.readouterr().out
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sfm-mini"]["source"] == "bundled"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embed", "nowhere.h5ad"], "Did not find path='nowhere.h5ad'"),
        (["embed", "cells.h5ad", "--model", "no model"], "Unknown model 'no model'"),
        (["embed", "cells.h5ad", "--layer", "counts"], "Did not find adata.layers['counts']"),
        (["tokenize", "cells.h5ad", "-o", "cells.h5ad"], "would write into the input"),
        (["embed", "cells.h5ad", "--layer", "counts"], "Layers present: none. Pass no --layer to use adata.X."),
        (["embed", "cells.h5ad", "--model", "/nope"], "Did not find the directory '/nope'"),
        (["annotate", "cells.h5ad", "cells.h5ad", "--labels-key", "nothing"], "Pass --labels-key with the one that"),
        (
            ["annotate", "cells.h5ad", "cells.h5ad", "--min-confidence", "7"],
            "--min-confidence 7.0 is not between 0 and 1",
        ),
        (["tokenize", "cells.h5ad", "-o", "no folder/x.h5ad"], "The folder of --out 'no folder/x.h5ad' does not exist"),
        (
            ["embed", "cells.h5ad", "-o", "out.zarr", "--copy-input"],
            "--copy-input copies 'cells.h5ad' as it is, so --out 'out.zarr' must end in '.h5ad' as well. "
            "Pass such a name, or no --copy-input.",
        ),
    ],
)
def test_errors_are_one_line_and_name_flags(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("sfm: error: ")
    assert message in line
    assert {path.name for path in folder.iterdir()} == {"cells.h5ad", "model"}


def test_debug_shows_where_an_error_came_from() -> None:
    with pytest.raises(FileNotFoundError, match="Did not find"):
        main(["embed", "nowhere.h5ad", "--debug"])


@pytest.mark.parametrize("command", ["embed", "tokenize", "annotate"])
def test_existing_output_is_replaced_only_when_asked(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    toy_cells(10).write_h5ad("out.h5ad")
    files = ["cells.h5ad", "cells.h5ad"] if command == "annotate" else ["cells.h5ad"]
    arguments = [command, *files, "-o", "out.h5ad"]
    assert main(arguments) == 1
    assert (
        "--out 'out.h5ad' exists already. Pass --overwrite to replace it, or another --out." in capsys.readouterr().err
    )
    assert main([*arguments, "--overwrite"]) == 0
    assert ad.read_h5ad("out.h5ad").n_obs == 60


@pytest.mark.filterwarnings("default")
def test_warnings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    adata = toy_cells(60)
    adata.X = sparse.diags((np.arange(60) != 3).astype(np.float32)) @ adata.X
    adata.write_h5ad("cells.h5ad")
    assert main(["embed", "cells.h5ad", "--model", "model"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "known gene" in line]
    assert lines == [
        "sfm: warning: 1 of 60 cells have no count on a known gene; they all get the vector of an empty cell."
    ]


@contextmanager
def interrupt_once_there_is(folder: Path, pattern: str) -> Iterator[None]:
    """Send this process what Ctrl+C sends as soon as a file appears."""

    def wait() -> None:
        end = time.monotonic() + 60
        while not any(folder.glob(pattern)) and time.monotonic() < end:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    # What runs in the background may have been started with interrupts ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)


def test_interrupt_says_how_to_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sfm.settings, "window_size", 16)
    toy_cells(1600).write_h5ad("cells.h5ad")
    arguments = ["embed", "cells.h5ad", "--model", "model", "-o", "out.h5ad", "--quiet"]
    with interrupt_once_there_is(folder, "out.h5ad.parts/part-*.safetensors"):
        assert main(arguments) == 130
    assert "finished cells are kept in 'out.h5ad.parts'; run the same command again" in capsys.readouterr().err
    n_finished = len(list(folder.glob("out.h5ad.parts/part-*.safetensors")))
    assert 0 < n_finished < 100
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.out == "out.h5ad\n"
    assert "going on with what is finished in 'out.h5ad.parts'" in printed.err
    assert not list(folder.glob("out.h5ad.parts"))
