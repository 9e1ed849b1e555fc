"""Makes the golden stores of the present format: `python -m tests.compat.make`. Run it once for each new version.

A store that was released is never made again: it proves that old files stay readable.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import casckpt
from casckpt.store.format import FORMAT_VERSION
from tests.compat.states import states

HERE = Path(__file__).parent


def make(hash: str) -> None:
    home = HERE / f"v{FORMAT_VERSION}-{hash}"
    if home.exists():
        raise SystemExit(f"{home} is there already")
    with tempfile.TemporaryDirectory() as folder:
        with casckpt.open(Path(folder) / "store", hash=hash, chunk_size=1024) as repo:
            first, second, third = states()
            repo.commit(first, "first", step=1, metrics={"loss": 2.0}, meta={"git": "a1b2c3", "n": [1, 2.5]})
            repo.tag("start")
            repo.commit(second, "pruned", step=2, metrics={"loss": 1.5})
            repo.commit(second, "second", step=3, metrics={"loss": 1.0})
            repo.switch("other", create=True)
            repo.commit(third, "third", step=4)
            repo.prune(
                casckpt.Keep(first=1, last=1, parts={"optimizer": casckpt.Keep(last=1, tags=False, branches=False)})
            )
            repo.gc()
        home.mkdir()
        for name in ("data.mdb", "mark"):
            shutil.copyfile(Path(folder) / "store" / name, home / name)


if __name__ == "__main__":
    for hash in ("xxh3_128", "blake3"):
        make(hash)
