"""Messages of functions in the words of the command line."""

from __future__ import annotations

import pytest

from sfm.annotation._cell_views import VIEWS
from sfm.annotation._classifier import CLASSIFIERS
from sfm.annotation._finetuned import TRAINERS
from sfm.cli._flags import flags_of, in_flags
from sfm.cli._parser import _METHODS, _VIEWS, make_parser

COMMANDS = {"embed": ["in.h5ad"], "tokenize": ["in.h5ad"], "annotate": ["in.h5ad", "ref.h5ad"], "models": []}


def flags(command: str = "annotate") -> dict[str, str]:
    return flags_of(make_parser().parse_args([command, *COMMANDS[command]]))


def test_choices_are_those_of_the_function() -> None:
    """They are written out, so that `sfm --help` imports nothing heavy."""
    assert sorted(_METHODS) == sorted([*CLASSIFIERS.names(), *TRAINERS.names()])
    assert _VIEWS == VIEWS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_is_one_of_the_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make_parser().parse_args([command, "--help"])
    shown = capsys.readouterr().out.replace(",", " ").split()
    assert set(flags(command).values()) <= {word.strip("[]") for word in shown}
    assert flags(command)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Pass overwrite=True, or another out=.", "Pass --overwrite, or another --out."),
        ("min_confidence=1.5 is too much", "--min-confidence 1.5 is too much"),
        ("out='a b.h5ad' is there", "--out 'a b.h5ad' is there"),
        ("pass neither layer= nor use_raw=.", "pass neither --layer nor --use-raw."),
        ("or copy_input=False.", "or no --copy-input."),
        ("Pass layer=None to use adata.X.", "Pass no --layer to use adata.X."),
        ("`layer` holds, or `layer='counts'`", "`--layer` holds, or `--layer 'counts'`"),
        ("pass `reference_kwargs={}`.", "pass `--reference-layer X`."),
        ("or `reference_kwargs={'layer': ...}`.", "or `--reference-layer NAME`."),
        ("or `reference_kwargs={'layer': 'counts'}`.", "or `--reference-layer 'counts'`."),
        ("pass `reference_kwargs={'use_raw': True}`.", "pass `--reference-use-raw`."),
        ("or `reference_kwargs={'gene_symbols': ...}`", "or `--reference-gene-symbols COLUMN`"),
        ("unless `reference_kwargs` is given", "unless `--reference-...` is given"),
        ("(its options are reference_kwargs=)", "(its options are --reference-...)"),
    ],
)
def test_arguments_become_flags(message: str, expected: str) -> None:
    assert in_flags(message, flags()) == expected


@pytest.mark.parametrize(
    "message",
    [
        "`sfm.pp.recover_counts(adata, layer='x')` restores them",
        "pass use_rep='X_sfm', method_kwargs=",
        "obsm['X_sfm'] of a model, and n_layer=3",
        "a single ` and no `layer",
        "path='nowhere.h5ad'",
    ],
)
def test_what_is_no_flag_stays(message: str) -> None:
    assert in_flags(message, flags()) == message


def test_arguments_that_a_command_lacks_stay() -> None:
    assert in_flags("pass `reference_kwargs={}` and labels_key=", flags("embed")) == (
        "pass `reference_kwargs={}` and labels_key="
    )
