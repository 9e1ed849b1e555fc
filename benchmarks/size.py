"""Sizes on the command line."""

from __future__ import annotations

import argparse
import re

UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def size(text: str) -> int:
    """Bytes, as in "1.2GB" or "100 MB"."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(\w+)", text)
    if found is None or found[2] not in UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 1.2GB")
    return int(float(found[1]) * UNITS[found[2]])
