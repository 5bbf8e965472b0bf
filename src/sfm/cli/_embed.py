from __future__ import annotations

from typing import TYPE_CHECKING

from sfm.cli._output import show, tell
from sfm.files import embed_file
from sfm.files._paths import choose_paths

if TYPE_CHECKING:
    from argparse import Namespace


def run(args: Namespace) -> None:
    """Embed the cells of a file, or print what that would cost."""
    paths = choose_paths(args.input, args.out, copy_input=args.copy_input)
    if not args.plan and paths.any_finished():
        tell(f"going on with what is finished in {str(paths.parts)!r}")
    try:
        result = embed_file(
            args.input,
            args.model,
            args.out,
            layer=args.layer,
            use_raw=args.use_raw,
            gene_symbols=args.gene_symbols,
            pooling=args.pooling,
            batch_size=args.batch_size,
            device=args.device,
            precision=args.precision,
            key_added=args.key_added,
            copy_input=args.copy_input,
            overwrite=args.overwrite,
            dry_run=args.plan,
        )
    except KeyboardInterrupt:
        if paths.any_finished():
            tell(f"finished cells are kept in {str(paths.parts)!r}; run the same command again to go on from there")
        raise
    show(str(result))
