"""What is imported when: looking at a store waits for nothing that it does not need. Counted, not timed."""

from __future__ import annotations

import pytest

import casckpt
from tests.processes import run

# What takes long to import, and what is only needed by those who ask for it.
HEAVY = {"torch", "numpy", "safetensors", "click", "rich", "asyncio", "multiprocessing", "subprocess", "http", "ssl"}
RARE = {
    *(f"casckpt.history.{name}" for name in ("diff", "fsck", "gc", "listing", "parts", "prune", "reinstate", "stats")),
    *(f"casckpt.store.{name}" for name in ("backup", "compact", "memory", "pages")),
    *("casckpt.cli", "casckpt.training", "casckpt.tensors.formats", "casckpt.tensors.intake"),
}

AFTER = """
    import sys
    before = set(sys.modules)
    {source}
    print(" ".join(sorted(set(sys.modules) - before)))
"""


def imported(source: str, *arguments: object) -> set[str]:
    """The modules that a line of Python loads."""
    return set(run(AFTER.format(source=source), *arguments).split())


def test_to_import_casckpt_is_to_read_one_file() -> None:
    assert imported("import casckpt") == {"casckpt", "__future__"}


def test_a_store_is_opened_and_looked_at_without_what_few_need(tmp_path) -> None:
    with casckpt.open(tmp_path / "store") as repo:
        repo.commit({"n": 1})
    loaded = imported(
        "import casckpt; repo = casckpt.open(sys.argv[1]); list(repo.log()), repo.refs(), repo.resolve(), repo.close()",
        tmp_path / "store",
    )
    assert "casckpt.store.lmdb_store" in loaded
    assert not loaded & (HEAVY | RARE)


def test_the_log_needs_neither_tensors_nor_what_few_need(tmp_path) -> None:
    with casckpt.open(tmp_path / "store") as repo:
        repo.commit({"n": 1})
    source = "import io; sys.stdout = io.StringIO(); from casckpt.cli import main; "
    source += "main(['-C', sys.argv[1], 'log']); sys.stdout = sys.__stdout__"
    loaded = imported(source, tmp_path / "store")
    assert "casckpt.cli.commands.log" in loaded
    assert not loaded & (HEAVY | RARE | {"casckpt.tensors"}) - {"click", "rich", "casckpt.cli"}


@pytest.mark.parametrize("name", casckpt.__all__)
def test_every_name_is_there_when_it_is_asked_for(name) -> None:
    assert getattr(casckpt, name) and name in dir(casckpt)
    with pytest.raises(AttributeError, match="no attribute"):
        getattr(casckpt, f"{name}_")
