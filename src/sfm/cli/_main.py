from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sfm.cli._flags import flags_of, in_flags
from sfm.cli._output import message_of, short_warnings, tell, verbosity
from sfm.cli._parser import make_parser

if TYPE_CHECKING:
    from collections.abc import Sequence

_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    ImportError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
)
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Arguments after the name of the command; those of the process by default.

    Returns
    -------
    Exit status: 0, 1 after an error, 130 after an interrupt. Arguments that cannot be meant exit with 2.
    """
    args = make_parser().parse_args(argv)
    worded = partial(in_flags, flags=flags_of(args))
    with short_warnings(worded), verbosity(args.verbosity):
        try:
            args.run(args)
        except KeyboardInterrupt:
            tell("interrupted")
            return _INTERRUPTED
        except _ERRORS as error:
            if args.debug:
                raise
            tell(f"error: {worded(message_of(error))}")
            return 1
    return 0
