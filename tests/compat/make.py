"""Makes the golden stores that are not there yet: `python -m tests.compat.make`. Run it for a new feature or version.

A store that was released is never made again: it proves that old files stay readable.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import casckpt
from casckpt.objects.ids import SCHEMES
from casckpt.store.format import FORMAT_VERSION
from tests.compat import features
from tests.compat.states import states

HERE = Path(__file__).parent


def make_first(hash: str, path: Path) -> None:
    """The stores that came first, with something of everything."""
    with casckpt.open(path, hash=hash, chunk_size=1024) as repo:
        first, second, third = states()
        repo.commit(first, "first", step=1, metrics={"loss": 2.0}, meta={"git": "a1b2c3", "n": [1, 2.5]})
        repo.tag("start")
        repo.commit(second, "pruned", step=2, metrics={"loss": 1.5})
        repo.commit(second, "second", step=3, metrics={"loss": 1.0})
        repo.switch("other", create=True)
        repo.commit(third, "third", step=4)
        repo.prune(casckpt.Keep(first=1, last=1, parts={"optimizer": casckpt.Keep(last=1, tags=False, branches=False)}))
        repo.gc()


def main() -> None:
    for hash in SCHEMES:
        for feature in (None, *features.FEATURES):
            home = HERE / "-".join(filter(None, [f"v{FORMAT_VERSION}", feature, hash]))
            if home.exists():
                continue
            with tempfile.TemporaryDirectory() as folder:
                store = Path(folder) / "store"
                if feature is None:
                    make_first(hash, store)
                else:
                    features.make(feature, hash, store)
                home.mkdir()
                for name in ("data.mdb", "mark"):
                    shutil.copyfile(store / name, home / name)
            print(home.name)


if __name__ == "__main__":
    main()
