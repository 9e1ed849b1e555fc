"""Coverage-guided fuzzing by atheris: each seed is a run on one target in a process of its own, the targets in turn.

`python -m tests.trials.hostile.covered TARGET FOLDER SEED RUNS` is that process. What it found worth keeping stays in
the folder's corpus, which the next run on that target begins with.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Generator, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from tests.processes import ROOT
from tests.trials.recipe import Recipe

# Those that need no torch, so that a process is there in a second; by the module that has them.
TARGETS: Final = {
    "objects": ("frame", "object", "chain", "tree", "state", "node", "commit"),
    "records": ("refs", "reflog", "retention-mark", "figures", "counter", "format"),
    "texts": ("revision", "globs", "path", "stored-ref-name", "subset", "policy"),
}
_NAMES: Final = tuple([(module, name) for module, names in TARGETS.items() for name in names])
RUNS: Final = 2000
PROGRAM = ("-m", "tests.trials.hostile.covered")
_PATIENCE: Final = 120
_MEMORY: Final = 1024
WITHOUT: Final = "not tried: atheris is not there"


def trials(seeds: Iterable[int], folder: Path) -> Generator[Counter[str], None, None]:
    """RUNS inputs for each seed, chosen by which of casckpt's lines those before have reached."""
    for seed in seeds:
        if find_spec("atheris") is None:
            yield Counter({WITHOUT: 1})
            continue
        module, name = _NAMES[seed % len(_NAMES)]
        run(module, name, seed, folder)
        yield Counter({f"{module}: inputs": RUNS})


def run(module: str, name: str, seed: int, folder: Path) -> None:
    """One process.

    Raises:
        AssertionError: it found something.
    """
    corpus = folder / name
    corpus.mkdir(exist_ok=True)
    work = folder / "work"
    work.mkdir()
    arguments = [sys.executable, *PROGRAM, module, name, corpus, str(seed + 1), str(RUNS)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        ended = subprocess.run(
            arguments, cwd=work, env=environment, capture_output=True, text=True, errors="replace", timeout=_PATIENCE
        )
        said = ended.stdout[-2000:] + ended.stderr[-4000:]
        found = {left.name: left.read_bytes().hex() for left in work.iterdir() if left.is_file()}
    except subprocess.TimeoutExpired as hung:
        raise AssertionError(f"target {name}, seed {seed}: hangs for {_PATIENCE} s\n{hung.stderr!r}") from None
    finally:
        shutil.rmtree(work)
    assert ended.returncode == 0, f"target {name}, seed {seed}: {ended.returncode}\n{said}\n{found}"


def main(module: str, name: str, corpus: str, seed: str, runs: str) -> None:
    """The process: everything of casckpt's is instrumented when it is imported."""
    import atheris

    with atheris.instrument_imports(include=["casckpt"]):
        from importlib import import_module

        target: Any = next(one for one in import_module(f"tests.trials.hostile.{module}").TARGETS if one.name == name)
    for number, data in enumerate(target.seeds()):
        (Path(corpus) / f"seed-{number}").write_bytes(data)

    def one(data: bytes) -> None:
        try:
            target.parse(target.mend(data, _steady()) if target.mend else data)
        except target.allowed:
            return

    # the most that this process ever had counts what it was forked from had, and that may be a great deal
    had = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    flags = [
        f"-runs={runs}",
        f"-seed={seed}",
        f"-rss_limit_mb={had + _MEMORY}",
        "-timeout=20",
        "-max_len=4096",
        "-verbosity=0",
    ]
    atheris.Setup([sys.argv[0], *flags, corpus], one)
    atheris.Fuzz()


def _steady() -> Any:
    """A generator that draws the same for every input."""
    from random import Random

    return Random(0)


COVERED: Final = Recipe(
    "hostile-coverage",
    ("P3", "P6"),
    "parsers fuzzed by atheris, guided by what they have run so far",
    "inputs",
    10_000_000,
    trials,
)

if __name__ == "__main__":
    main(*sys.argv[1:])
