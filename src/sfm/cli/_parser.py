"""Arguments of the command line; nothing heavy is imported until a command runs."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_METHODS = ("knn", "logreg", "lda", "prototype", "finetune")
_VIEWS = ("both", "model", "expression")


def make_parser() -> ArgumentParser:
    """Return the parser of all commands."""
    parser = ArgumentParser(prog="sfm", description="Single-cell foundation models for scanpy users.")
    parser.add_argument("--version", action="version", version=f"sfm {version('sfm-tools')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, summary, add in [
        ("embed", "embed the cells of a file; interrupted runs go on", _add_embed),
        ("tokenize", "turn the counts of the cells of a file into tokens", _add_tokenize),
        ("annotate", "label the cells of a file from a reference", _add_annotate),
        ("models", "list the models that can be named", _add_models),
    ]:
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        add(command)
        _add_common(command)
        command.set_defaults(run=_lazily(f"sfm.cli._{name}"))
    return parser


def _lazily(module: str) -> Callable[[Namespace], None]:
    def run(args: Namespace) -> None:
        import_module(module).run(args)

    return run


def _add_embed(command: ArgumentParser) -> None:
    _add_files(command, "embedded")
    _add_model(command)
    _add_input(command)
    command.add_argument(
        "--pooling", choices=["mean", "cls", "last", "max"], help="how token vectors become the vector of the cell"
    )
    _add_compute(command)
    command.add_argument("--key-added", metavar="KEY", help="slot name to use instead of X_sfm")
    command.add_argument("--plan", action="store_true", help="write nothing, and print what the run would cost")


def _add_tokenize(command: ArgumentParser) -> None:
    _add_files(command, "tokenized")
    command.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="model whose tokenizer is used (default: sfm-mini), or rank, bins or values with the genes of the input",
    )
    command.add_argument("--max-length", type=int, metavar="N", help="longest token sequence")
    _add_input(command)
    command.add_argument("--key-added", metavar="KEY", help="slot name to use instead of tokens")


def _add_annotate(command: ArgumentParser) -> None:
    command.add_argument("input", metavar="IN", help="cells with raw counts, .h5ad or .zarr")
    command.add_argument(
        "reference",
        metavar="REFERENCE",
        help="labelled cells (.h5ad or .zarr), a trained classifier, or a CellTypist .pkl",
    )
    _add_out(command, "annotated")
    command.add_argument(
        "--labels-key", default="cell_type", metavar="COLUMN", help="column of REFERENCE with the labels"
    )
    _add_model(command)
    command.add_argument(
        "--method",
        choices=_METHODS,
        action="append",
        help="how labels are found (default: knn, logreg and lda); several vote",
    )
    command.add_argument("--views", choices=_VIEWS, help="what cells are compared by (default: both)")
    command.add_argument("--min-confidence", type=float, metavar="P", help="cells below are 'unknown'")
    command.add_argument("--max-novelty", type=float, metavar="P", help="cells above are 'unknown'")
    command.add_argument(
        "--majority-voting",
        nargs="?",
        const=True,
        metavar="COLUMN",
        help="column of IN with clusters that get one label each; without COLUMN, clusters are made with Leiden",
    )
    _add_input(command)
    _add_reference_input(command)
    _add_compute(command)
    command.add_argument("--key-added", metavar="KEY", help="slot name to use instead of sfm_label")


def _add_models(command: ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _add_files(command: ArgumentParser, ending: str) -> None:
    command.add_argument("input", metavar="IN", help="cells with raw counts, .h5ad or .zarr")
    _add_out(command, ending)


def _add_out(command: ArgumentParser, ending: str) -> None:
    command.add_argument("-o", "--out", metavar="OUT", help=f".h5ad or .zarr (default: IN with _{ending} in its name)")
    command.add_argument("--copy-input", action="store_true", help="write all that IN holds as well, not only obs")
    command.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def _add_model(command: ArgumentParser) -> None:
    command.add_argument(
        "--model", metavar="NAME", help="name from `sfm models`, directory or hub id (default: sfm-mini)"
    )


def _add_input(command: ArgumentParser) -> None:
    command.add_argument("--layer", metavar="NAME", help="layer of counts to read instead of X")
    command.add_argument("--use-raw", action="store_true", help="read raw instead of X")
    command.add_argument("--gene-symbols", metavar="COLUMN", help="column of var with the names of the genes")


def _add_reference_input(command: ArgumentParser) -> None:
    command.add_argument(
        "--reference-layer",
        metavar="NAME",
        help="layer of REFERENCE to read, X for its X (default: what is read of IN, or X with another --reference option)",
    )
    command.add_argument("--reference-use-raw", action="store_true", help="read raw of REFERENCE")
    command.add_argument(
        "--reference-gene-symbols", metavar="COLUMN", help="column of var of REFERENCE with the names of its genes"
    )


def _add_compute(command: ArgumentParser) -> None:
    command.add_argument("--batch-size", type=_batch_size, default="auto", metavar="N", help="cells per minibatch")
    command.add_argument("--device", default="auto", metavar="NAME", help="torch device")
    command.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")


def _add_common(command: ArgumentParser) -> None:
    loud = command.add_mutually_exclusive_group()
    loud.add_argument("-v", "--verbose", dest="verbosity", action="store_const", const=3, help="say what is done")
    loud.add_argument("-q", "--quiet", dest="verbosity", action="store_const", const=0, help="no progress bar")
    command.add_argument("--debug", action="store_true", help="show where an error came from")


def _batch_size(text: str) -> int | str:
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        msg = f"{text!r} is neither 'auto' nor a number"
        raise ArgumentTypeError(msg) from None
