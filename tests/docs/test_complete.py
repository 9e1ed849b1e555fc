"""The documentation says all that there is: every public name, every error; every link in it leads somewhere."""

from __future__ import annotations

import ast
import builtins
import inspect
import pkgutil
import re
from concurrent import futures
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import casckpt
from casckpt import errors
from tests.docs.pages import DOCS
from tests.processes import ROOT

API = (DOCS / "reference" / "api.md").read_text()
CLI = (DOCS / "reference" / "cli.md").read_text()
SHOWN = re.findall(r"^::: (\S+)", API, re.MULTILINE)
ERRORS = [
    found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, errors.CasckptError) and found is not errors.CasckptError
]


def _public(cls: type) -> list[str]:
    """Methods and properties that are not private, inherited ones of casckpt's own classes included."""
    own = [base for base in cls.__mro__ if base.__module__.startswith("casckpt.")]
    return sorted({name for base in own for name in vars(base) if not name.startswith("_")})


@cache
def _known() -> dict[str, type]:
    """casckpt's own classes by their names, without errors; also those that a module names for type checkers only."""
    modules = [import_module(found.name) for found in pkgutil.walk_packages(casckpt.__path__, "casckpt.")]
    members = [member for module in modules for member in vars(module).values() if isinstance(member, type)]
    own = [cls for cls in members if cls.__module__.startswith("casckpt.") and cls.__module__ != errors.__name__]
    return {cls.__name__: cls for cls in own}


def _classes(annotation: object) -> list[type]:
    """casckpt's own classes in an annotation, which is text."""
    return [_known()[name] for name in re.findall(r"\b[A-Z]\w+", str(annotation)) if name in _known()]


def _given_back(cls: type) -> set[type]:
    """casckpt's own classes that the public methods of a class give back, and those of their fields."""
    found: set[type] = set()
    for name in _public(cls):
        member = inspect.getattr_static(cls, name)
        function = member.fget if isinstance(member, property) else member
        if inspect.isfunction(function):
            found.update(_classes(function.__annotations__.get("return")))
    pending = list(found)
    while pending:
        one = pending.pop()
        for annotation in getattr(one, "__annotations__", {}).values():
            new = set(_classes(annotation)) - found
            found |= new
            pending += new
    return found


@pytest.mark.parametrize("name", casckpt.__all__)
def test_every_public_name_is_in_the_reference(name: str) -> None:
    assert f"casckpt.{name}" in SHOWN


@pytest.mark.parametrize("cls", [casckpt.Repository, casckpt.Checkpointer], ids=lambda cls: cls.__name__)
def test_whatever_a_method_gives_back_is_in_the_reference(cls: type) -> None:
    shown = {name.rpartition(".")[2] for name in SHOWN}
    assert not [found for found in _given_back(cls) if found.__name__ not in shown]


@pytest.mark.parametrize(
    "cls", [casckpt.Repository, casckpt.Checkpointer, casckpt.Keep, casckpt.Commit], ids=lambda cls: cls.__name__
)
def test_every_public_method_and_attribute_says_what_it_is(cls: type) -> None:
    for name in _public(cls):
        member: Any = inspect.getattr_static(cls, name)
        fields = getattr(cls, "__dataclass_fields__", {})
        said = name in SELF_EVIDENT or name in (cls.__doc__ or "") if name in fields else inspect.getdoc(member)
        assert said, f"{cls.__name__}.{name}"


def test_every_parameter_of_a_public_call_is_explained() -> None:
    calls: list[tuple[str, Any, str]] = [
        ("open", casckpt.open, casckpt.open.__doc__ or ""),
        ("save", casckpt.save, casckpt.save.__doc__ or ""),
        ("load", casckpt.load, casckpt.load.__doc__ or ""),
        ("register", casckpt.register, casckpt.register.__doc__ or ""),
        ("Checkpointer", casckpt.Checkpointer, casckpt.Checkpointer.__doc__ or ""),
        ("Keep", casckpt.Keep, casckpt.Keep.__doc__ or ""),
    ]
    for cls in (casckpt.Repository, casckpt.Checkpointer):
        methods = [(name, inspect.getattr_static(cls, name)) for name in _public(cls)]
        calls += [
            (name, method, inspect.getdoc(method) or "") for name, method in methods if inspect.isfunction(method)
        ]
    missing = [
        f"{name}({parameter})"
        for name, call, doc in calls
        for parameter in inspect.signature(call).parameters
        if parameter not in ("self", "more", *NAMES) and not re.search(rf"\b{parameter}\b", doc)
    ]
    assert not [one for one in missing if one not in SELF_EVIDENT], missing


# What says itself: parameters wherever they stand, and others in their places. gc explains progress for all.
NAMES = {"path", "name", "revision", "revisions", "old", "new", "message"}
SELF_EVIDENT = {
    *("register(cls)", "commit(state)", "save(obj)", "save(step)", "save(metrics)", "save(meta)", "step(step)"),
    *(
        "import_file(metrics)",
        "import_file(meta)",
        "fsck(progress)",
        "repack(progress)",
        "compact(progress)",
        "backup(progress)",
    ),
    *("id", "parents", "tree", "branch", "metrics", "message", "host", "meta"),
}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.kind)
def test_every_error_has_a_kind_an_exit_code_and_a_place_in_the_docs(error: type[errors.CasckptError]) -> None:
    assert re.search(rf"^\| {error.exit_code} \|.*`{error.kind}`", CLI, re.MULTILINE)
    assert error.__name__ in (errors.__doc__ or "") and error.__doc__


def test_every_error_that_a_docstring_names_is_there() -> None:
    trees = [ast.parse(source.read_text()) for source in (ROOT / "casckpt").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    known = {node.name for node in nodes if isinstance(node, ast.ClassDef)} | set(dir(builtins)) | set(dir(futures))
    for node in nodes:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            raises = (ast.get_docstring(node) or "").partition("Raises:")[2].partition("\n\n")[0]
            named = set(re.findall(r"\b[A-Z]\w+Error\b", raises))
            assert named <= known, f"{node.name}: {named - known}"


# -- links -------------------------------------------------------------------------------------------------------------


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as mkdocs makes them."""
    headings = re.findall(r"^#{1,6} (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    plain = [re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower() for heading in headings]
    return {re.sub(r"[-\s]+", "-", heading) for heading in plain}


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: str(page.relative_to(DOCS)))
def test_every_link_and_image_of_a_page_is_there(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        assert not target.startswith(("http:", "/")), target
        if target.startswith("https:"):
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.is_file() and found.is_relative_to(DOCS), target
        assert not anchor or anchor in _anchors(found), target


def test_every_page_can_be_reached_and_every_picture_is_shown() -> None:
    nav = (ROOT / ".mkdocs.yml").read_text()
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert {name for name in pages if name not in nav} == set()
    shown = "".join(page.read_text() for page in DOCS.rglob("*.md"))
    for picture in DOCS.rglob("*.svg"):
        assert f"]({picture.name})" in shown
