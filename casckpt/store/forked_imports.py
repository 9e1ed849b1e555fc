"""In a forked child, imports that another thread had under way are begun anew: that thread is not there any more.

Modules of ours are imported where they are first needed, so a fork may come while another thread imports one. Python
leaves the lock of that module held in the child, for ever: whoever needs it there would hang, even if only to be told
that the store was inherited. It is as if the import had failed: the module goes, and the next one who needs it imports
it. Nothing is done to modules of others.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from typing import Final

_OURS: Final = "casckpt."


def forget_half_imported() -> None:
    """Drop what other threads were importing; this one goes on with what it imports itself."""
    locks = getattr(getattr(importlib, "_bootstrap", None), "_module_locks", None)
    if not isinstance(locks, dict):
        return
    for name, known in list(locks.items()):
        lock = known()
        if not isinstance(name, str) or not name.startswith(_OURS) or lock is None:
            continue
        if getattr(lock, "owner", None) == threading.get_ident():
            continue
        locks.pop(name, None)
        spec = getattr(sys.modules.get(name), "__spec__", None)
        if getattr(spec, "_initializing", False):
            sys.modules.pop(name, None)


os.register_at_fork(after_in_child=forget_half_imported)
