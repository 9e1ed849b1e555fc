"""A fork while another thread imports a module of ours: the child imports it anew, and waits for nobody."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import threading

import pytest

import casckpt.store.forked_imports
from tests.processes import forked

NAME = "casckpt.slow"


class Slow(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds one module, whose import takes until it is told to go on; in a child it takes no time."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.is_slow = True

    def find_spec(self, name, path, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name == NAME else None

    def exec_module(self, module) -> None:
        self.begun.set()
        if self.is_slow:
            assert self.go_on.wait(60)
        module.value = 7


@pytest.fixture
def slow():
    finder = Slow()
    sys.meta_path.insert(0, finder)
    importing = threading.Thread(target=lambda: importlib.import_module(NAME))
    importing.start()
    assert finder.begun.wait(60)
    yield finder
    finder.go_on.set()
    importing.join()
    sys.meta_path.remove(finder)
    sys.modules.pop(NAME, None)


def test_the_child_imports_what_a_thread_of_its_parent_was_importing(slow) -> None:
    def child() -> int:
        slow.is_slow = False
        return importlib.import_module(NAME).value

    assert forked(child) == "7"
    slow.go_on.set()
    assert importlib.import_module(NAME).value == 7  # the parent's import is its own


def test_what_the_forking_thread_imports_itself_goes_on(monkeypatch) -> None:
    class Forking(Slow):
        def exec_module(self, module) -> None:
            module.value = forked(lambda: sys.modules[NAME] is module)

    finder = Forking()
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    assert importlib.import_module(NAME).value == "True"
    sys.modules.pop(NAME)


def test_a_python_that_keeps_its_locks_elsewhere_is_left_alone(monkeypatch) -> None:
    monkeypatch.setattr(importlib._bootstrap, "_module_locks", None)  # type: ignore[attr-defined]
    casckpt.store.forked_imports.forget_half_imported()
