"""`python -m casckpt` is `casckpt`."""

from __future__ import annotations

import sys

from casckpt.cli import main

if __name__ == "__main__":
    sys.exit(main())
