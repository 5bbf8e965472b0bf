from __future__ import annotations

from typing import TYPE_CHECKING

from sfm._keys import token_keys
from sfm.cli._output import show
from sfm.cli._results import write_results
from sfm.data._open import open_cells
from sfm.files._paths import choose_paths, refuse_existing
from sfm.pp import tokenize

if TYPE_CHECKING:
    from argparse import Namespace


def run(args: Namespace) -> None:
    """Tokenize the cells of a file; the tokens of all cells are held in memory."""
    paths = choose_paths(args.input, args.out, copy_input=args.copy_input, ending="tokenized")
    refuse_existing(paths, overwrite=args.overwrite)
    with open_cells(paths.source) as adata:
        tokenize(
            adata,
            args.tokenizer,
            layer=args.layer,
            use_raw=args.use_raw,
            gene_symbols=args.gene_symbols,
            max_length=args.max_length,
            key_added=args.key_added,
        )
        keys = token_keys(args.key_added)
        write_results(paths, adata, obsm=[keys.obsm, keys.values], uns=keys.uns, copy_input=args.copy_input)
    show(str(paths.out))
