"""Targets: what people write, and what others may have written for them: revisions, globs, names, policies, sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, Final

import click

from casckpt.cli.options import size, span, split_globs
from casckpt.cli.policy import keep_from_options
from casckpt.cli.units import printable, readable_path
from casckpt.history.fsck.subset import parse_subset
from casckpt.history.repository import History
from casckpt.history.retention import span_seconds
from casckpt.objects.names import check_ref_name, check_stored_ref_name
from casckpt.objects.paths import Globs, find, keys, select
from casckpt.objects.values import Map, Value
from casckpt.store.memory import MemoryStore
from tests.history.world import commit
from tests.trials.hostile.target import Target, joined, taken_apart

_STATE: Final[Value] = Map(
    (
        ("model", Map((("encoder.weight", 1), ("a\\b", 2), ("layers", [Map((("w", 3),)), (4, 5)])))),
        ("a" * 300, Map((("b" * 300, 1),))),
        (7, None),
    )
)
_PATHS: Final = ("model.encoder\\.weight", "model.layers.0.w", "a" * 300 + "." + "b" * 300, "", "7", "x" * 2000)


def _text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    """A parser of text, given bytes: lone surrogates are among what it may meet, as in arguments of a program."""
    return lambda data: parse(data.decode("utf-8", "surrogateescape"))


@cache
def _history() -> History:
    history = History(MemoryStore())
    for step in range(4):
        commit(history, {"model": {"w": b"x" * (10 + step)}}, step=step, metrics={"loss": 1.0 / (1 + step)})
    history.branch("try/lr")
    history.tag("v1")
    return history


def _revision(text: str) -> None:
    _history().resolve(text)


def _globs(data: bytes) -> None:
    """The first part is a path, the others are globs for it."""
    path, *patterns = [part.decode("utf-8", "surrogateescape") for part in taken_apart(data)] or [""]
    chosen = Globs(patterns)
    for one in (path, *_PATHS):
        chosen.match(one)
        chosen.may_match_under(one)
    select(_STATE, chosen, _nothing)


def _nothing(oid: bytes) -> Value:
    raise AssertionError("nothing is to be fetched")


def _path(text: str) -> None:
    find(_STATE, text, _nothing)
    keys(text)
    readable_path(text)


def _policy(data: bytes) -> None:
    """Four parts: what stands behind --keep-best, --tag, --keep-every and --part."""
    best, tag, every, part = [*[one.decode("utf-8", "surrogateescape") for one in taken_apart(data)], *[""] * 4][:4]
    keep_from_options(
        last=1,
        first=0,
        every_steps=None,
        every=every or None,
        best=(best,) if best else (),
        tags=(tag,),
        branches=(),
        parts=(part,) if part else (),
    )


def _sizes(text: str) -> None:
    nothing: Any = None
    span_seconds(text)
    with suppress(click.BadParameter):
        size(nothing, nothing, text)
    span(nothing, nothing, text)


def _words(data: bytes) -> None:
    split_globs(tuple([part.decode("utf-8", "surrogateescape") for part in taken_apart(data)]), 2)


def _shown(text: str) -> None:
    assert printable(text).isprintable()


def _texts(*texts: str) -> Callable[[], Sequence[bytes]]:
    return lambda: [text.encode("utf-8", "surrogatepass") for text in texts]


def _of_parts(*rows: Sequence[str]) -> Callable[[], Sequence[bytes]]:
    return lambda: [joined([text.encode() for text in row]) for row in rows]


_REVISION_TOKENS: Final = (b"~", b"^", b"@{", b"}", b"step:", b"best:", b":min", b"HEAD", b"~9999999", b"@", b"\xff")
_GLOB_TOKENS: Final = (
    b"*",
    b"?",
    b"[",
    b"]",
    b"[!",
    b"\\",
    b".",
    b"-",
    b"a*",
    b"*a",
    b"**",
    b"[a-",
    b"&&",
    b"[[",
    b"\n",
)
_RULES: Final = (b":min", b":max:", b":3", b"last=", b",", b"=", b"every=6h", b"best=", b"tag=", b":", b"9" * 12)

TARGETS: Final[Sequence[Target]] = (
    Target(
        "revision",
        _texts("main~2", "HEAD^^~1", "v1", "main@{1}", "step:2", "best:loss:min", "best:loss", "abcd", "try/lr~3^"),
        _text(_revision),
        tokens=_REVISION_TOKENS,
    ),
    Target(
        "globs",
        _of_parts(
            ("model.encoder.weight", "model.*", "*.weight", "[a-m]odel.?*"),
            ("a.b" * 30, "*a*b*a", "[!x]*", "a\\.b*"),
        ),
        _globs,
        tokens=_GLOB_TOKENS,
        parts=True,
    ),
    Target(
        "path", _texts("model.encoder\\.weight", "model.layers.1.0", "7", ""), _text(_path), tokens=(b".", b"\\", b"0")
    ),
    Target(
        "ref-name", _texts("main", "try/lr-3e-4", "v1.0", "ä"), _text(check_ref_name), tokens=(b"/", b".", b"..", b"-")
    ),
    Target(
        "stored-ref-name", _texts("main", "try/lr", "\u0378"), _text(check_stored_ref_name), tokens=(b"/", b"..", b"-")
    ),
    Target(
        "subset",
        _texts("5%", "2/7", "500M", "0.5%"),
        _text(parse_subset),
        tokens=(b"%", b"/", b"M"),
        allowed=(ValueError,),
    ),
    Target(
        "sizes",
        _texts("65536", "64K", "1MiB", "6h", "30min"),
        _text(_sizes),
        allowed=(click.BadParameter,),
        tokens=(b"9" * 15,),
    ),
    Target(
        "policy",
        _of_parts(
            ("val_loss:min:3", "v*", "6h", "optimizer:last=3,best=loss:max"),
            ("m:max", "[!a]", "1d", "a:b:every=6h,tag=v*"),
        ),
        _policy,
        tokens=_RULES,
        parts=True,
    ),
    Target("words", _of_parts(("main", "model.*", "x"), ("file:a", "b", "[")), _words, parts=True),
    Target("shown", _texts("plain", "\x1b[31m", "ä\u202e", "\x9b"), _text(_shown)),
)
