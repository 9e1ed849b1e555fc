"""The site builds, without a warning and without a network, and shows what the docstrings say."""

from __future__ import annotations

import html
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import casckpt
from casckpt import errors
from tests.docs.pages import DOCS
from tests.docs.test_complete import ERRORS, _public
from tests.processes import PATIENCE, ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", ROOT / ".mkdocs.yml", "-d", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_every_page_is_built_and_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in DOCS.rglob("*.md"):
        name = page.relative_to(DOCS).with_suffix("")
        built = (site / (name.parent if name.name == "index" else name) / "index.html").read_text()
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=\"?([^\" >]*)", built)
        loaded += re.findall(r"<link[^>]* rel=\"?(?:stylesheet|preconnect|icon)\"?[^>]*", built)
        assert loaded and not [one for one in loaded if "//" in one], name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", style.read_text())


def test_every_public_method_is_on_the_page(site: Path) -> None:
    built = (site / "reference" / "api" / "index.html").read_text()
    for cls in (casckpt.Repository, casckpt.Checkpointer, casckpt.Keep, casckpt.Commit):
        assert f'id="casckpt.{cls.__name__}"' in built
        for name in _public(cls):
            if name not in getattr(cls, "__dataclass_fields__", {}):
                assert f'id="casckpt.{cls.__name__}.{name}"' in built, name


def test_docstrings_are_shown_as_lists(site: Path) -> None:
    built = (site / "reference" / "api" / "index.html").read_text()
    text = html.unescape(re.sub(r"<[^>]+>", "", built))
    assert "<li><strong>step</strong>: completed optimizer updates" in built
    assert "<li><code>RefMovedError</code>: somebody else moved the branch" in built
    assert "Raises:" not in text
    first = (inspect.getdoc(casckpt.Repository.rollback) or "").partition("\n")[0]
    assert first in text


def test_every_error_is_on_the_page(site: Path) -> None:
    built = (site / "reference" / "errors" / "index.html").read_text()
    for error in [errors.CasckptError, *ERRORS]:
        assert f'id="casckpt.errors.{error.__name__}"' in built
    assert "├── StateError" in html.unescape(re.sub(r"<[^>]+>", "", built))


def test_the_diagrams_are_those_that_the_script_draws() -> None:
    drawn: dict[str, object] = {"__name__": "drawings", "__file__": str(DOCS / "explanation" / "draw.py")}
    exec(compile((DOCS / "explanation" / "draw.py").read_text(), "draw.py", "exec"), drawn)
    for name, draw in drawn["DRAWINGS"].items():  # type: ignore[attr-defined]  # what that script has
        assert (DOCS / "explanation" / f"{name}.svg").read_text() == draw().svg()
