"""`python -m sfm` is the command `sfm`."""

from __future__ import annotations

import sys

from sfm.cli import main

if __name__ == "__main__":
    sys.exit(main())
