"""The one gate through which every branch and tag name passes, when it is given and when it is read back."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from casckpt.errors import InvalidRefNameError
from casckpt.limits import MAX_REF_NAME

# Each is a character that a revision gives a meaning (~ ^ : @ {), that a shell or glob would take for its own, or that
# a name shown to people or used as a path must not hold.
_FORBIDDEN: Final = re.compile(r"[\x00-\x20\x7f-\x9f~^:@{}\\*?\[\]]")


def check_ref_name(name: str) -> str:
    """`name`, if a branch or tag may be called so: "main", "try/lr-3e-4", "v1.0".

    Raises:
        InvalidRefNameError: it names what is wrong.
    """
    return _check(name, unassigned=False)


def check_stored_ref_name(name: str) -> str:
    """As `check_ref_name`, of a name that is read: whoever gave it may know characters of a later Unicode."""
    return _check(name, unassigned=True)


def _check(name: str, *, unassigned: bool) -> str:
    remedy = "use letters, digits, '-', '_', '.' and '/' between parts, such as 'try/lr-3e-4'"
    problem = ""
    shown = "".join([char for char in name if unicodedata.category(char) != "Cn"]) if unassigned else name
    if not name:
        problem = "it is empty"
    elif not shown.isprintable() or len(name.encode("utf-8", "replace")) > MAX_REF_NAME:
        problem = f"it has unprintable characters or more than {MAX_REF_NAME} bytes"
    elif name == "HEAD":
        problem = "HEAD is where the current branch is kept"
    elif found := _FORBIDDEN.search(name):
        problem = f"it holds {found.group()!r}"
    elif name.startswith(("-", "/")) or name.endswith("/"):
        problem = "it begins with '-' or '/', or ends with '/'"
    elif any(part == "" or part.startswith(".") or part.endswith(".") for part in name.split("/")):
        problem = "a part of it is empty, or begins or ends with '.'"
    if problem:
        raise InvalidRefNameError(f"{name!r} cannot be a branch or tag: {problem}", ref=name, remedy=remedy)
    return name
