from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfm._keys import annotation_keys
from sfm.annotation._resolve import DEFAULT_METHODS
from sfm.cli._output import show
from sfm.cli._results import write_results
from sfm.data._open import open_cells
from sfm.files._paths import SUFFIXES, choose_paths, refuse_existing
from sfm.tl import annotate

if TYPE_CHECKING:
    from argparse import Namespace


def run(args: Namespace) -> None:
    """Label the cells of a file."""
    paths = choose_paths(args.input, args.out, copy_input=args.copy_input, ending="annotated")
    refuse_existing(paths, overwrite=args.overwrite)
    with ExitStack() as stack:
        reference: Any = args.reference
        if Path(reference).suffix in SUFFIXES:
            reference = stack.enter_context(open_cells(Path(reference)))
        adata = stack.enter_context(open_cells(paths.source))
        annotate(
            adata,
            reference,
            labels_key=args.labels_key,
            model=args.model,
            method=_methods(args.method),
            views=args.views,
            min_confidence=args.min_confidence,
            max_novelty=args.max_novelty,
            majority_voting=args.majority_voting,
            layer=args.layer,
            use_raw=args.use_raw,
            gene_symbols=args.gene_symbols,
            reference_kwargs=_reference_options(args),
            batch_size=args.batch_size,
            device=args.device,
            precision=args.precision,
            key_added=args.key_added,
        )
        keys = annotation_keys(args.key_added)
        write_results(paths, adata, obsm=[keys.probabilities], uns=keys.uns, copy_input=args.copy_input)
    show(str(paths.out))


def _methods(given: list[str] | None) -> Any:
    """One method, or several that vote."""
    if not given:
        return DEFAULT_METHODS
    return given[0] if len(given) == 1 else given


def _reference_options(args: Namespace) -> dict[str, Any] | None:
    """Which matrix of the reference is read, `None` for the same as of the input."""
    given = (args.reference_layer, args.reference_use_raw, args.reference_gene_symbols)
    if not any(given):
        return None
    layer, use_raw, gene_symbols = given
    return {"layer": None if layer == "X" else layer, "use_raw": use_raw, "gene_symbols": gene_symbols}
