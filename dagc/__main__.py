"""`python -m dagc`: the same as the command `dagc`."""

from __future__ import annotations

import sys

from dagc.cli import main

if __name__ == "__main__":
    sys.exit(main())
