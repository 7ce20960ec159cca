"""``python -m policykd``: the command line; it refuses to be imported for anything else."""

from __future__ import annotations

import sys

from policykd.cli import main

if __name__ == "__main__":
    sys.exit(main())
