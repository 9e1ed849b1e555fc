from __future__ import annotations

import sys
from pathlib import Path

from tests.compat.reader.store import Store

print(Store(Path(sys.argv[1])).check())
