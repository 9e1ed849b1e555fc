"""What the golden stores show, feature by feature: how each is made, and the states that must come out of it again.

The states are made from nothing that changes between releases of torch or numpy.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import casckpt
from casckpt import Keep, Repository
from casckpt.history.ingest import Ingest
from casckpt.history.records import put_figures
from casckpt.objects.commit import CommitObject
from casckpt.objects.values import Map

States = dict[str, Any]
"""What must come out, by revision. None: the commit was pruned."""


@dataclass(frozen=True)
class Feature:
    """One thing that a store can hold. fill: fills a new store, and returns what must come out of it for ever."""

    fill: Callable[[Repository], States]
    chunk_size: int = 1024
    codec: str = "auto"
    backed_up: bool = False
    since: int = 1  # the first version of the format that has it


def noise(count: int, seed: int = 0) -> torch.Tensor:
    """Bytes that no codec makes smaller."""
    blocks = [hashlib.sha256(f"{seed}.{number}".encode()).digest() for number in range(-(-count // 32))]
    return torch.frombuffer(bytearray(b"".join(blocks)[:count]), dtype=torch.uint8)


def small(number: int) -> dict[str, Any]:
    """A state with two parts, each with a storage of its own chunks, and a value."""
    return {
        "model": {"w": torch.full((700,), float(number)), "same": torch.arange(700.0)},
        "optimizer": {"m": torch.full((700,), -float(number)), "step": number},
    }


def history(repo: Repository) -> States:
    """Branches, tags, a commit with two parents, a rollback, a deleted branch, HEAD elsewhere, every field."""
    repo.commit(small(0), "first", step=0, metrics={"loss": 2.5, "acc/top-1": 0.0}, meta={"a": [1, (2, b"\0"), None]})
    repo.commit(small(1), "ü" * 100, step=-1, metrics={"loss": float("nan"), "up": float("inf")})
    repo.tag("v1.0")
    repo.branch("try/lr-3e-4", at="HEAD~1")
    repo.branch("gone")
    repo.delete_branch("gone")
    repo.commit(small(2), "rolled back", step=2)
    repo.rollback("v1.0")
    repo.commit(small(3), "in its place", step=2)
    repo.switch("try/lr-3e-4")
    repo.commit(small(4), "on a branch", step=4)
    _merge(repo, "main", "both")
    repo.switch("unused", create=True)
    return {
        "v1.0~1": small(0),
        "v1.0": small(1),
        "main@{1}": small(1),
        "main@{2}": small(2),
        "main": small(3),
        "try/lr-3e-4~1": small(4),
        "try/lr-3e-4": small(4),
        "HEAD": small(4),
    }


def _merge(repo: Repository, other: str, message: str) -> None:
    """A commit of the tip's tree with a second parent: the format has it, no command makes one yet."""
    tip, second = repo.resolve("HEAD"), repo.resolve(other)
    parents = (bytes.fromhex(tip.id), bytes.fromhex(second.id))
    made = CommitObject(
        tree=bytes.fromhex(tip.tree),
        parents=parents,
        branch=tip.branch,
        step=None,
        metrics=(),
        message=message,
        time=1_800_000_000_000_000_000,
        host="",
        meta=Map(()),
    )
    with Ingest(repo.store, repo.scheme) as ingest:
        oid, _ = ingest.publish(made, expected=parents[0], logical=0)
    assert tip.figures is not None
    with repo.store.write(durable=True, room=None) as writer:
        put_figures(writer, oid, replace(tip.figures, new=0, stored=0, new_chunks=0))


def paged(repo: Repository) -> States:
    """Containers of thousands of items, cut into pages, one of them the root; and a change in the middle."""
    root: dict[Any, Any] = {f"layer.{n}.weight": torch.full((3,), n, dtype=torch.int16) for n in range(900)}
    root |= {n: n * n for n in range(2000)}
    root["list"] = [[n, str(n)] for n in range(3600)]
    root["tuple"] = tuple(range(12000))
    root["ordered"] = OrderedDict((n, "x" * (n % 90)) for n in range(1000))
    root["set"] = set(range(70000, 77000))
    root["texts"] = ["y" * 4096] * 10
    root["about as long as what is cut out"] = {length: ["z" * length] for length in range(2040, 2048)}
    changed = {**root, "layer.700.weight": torch.ones(3), "list": [*root["list"][:1800], "new", *root["list"][1800:]]}
    repo.commit(root, "large")
    repo.commit(changed, "changed in the middle")
    return {"HEAD~1": root, "HEAD": changed}


def shared(repo: Repository) -> States:
    """Tensors that share storages, and equal ones that do not."""
    base = torch.arange(3000, dtype=torch.int32)
    tiny = torch.arange(8, dtype=torch.float32)
    weight = torch.nn.Parameter(torch.arange(600.0).reshape(20, 30))
    state = {
        "tied": [base, base, base.view(50, 60), base[1000:2000:3]],
        "as other types": [base.view(torch.uint8)[100:300], base.view(torch.int16)[7:9]],
        "a window of a large one": torch.arange(100_000)[500:900],
        "tiny": {"whole": tiny, "part": tiny[2:5], "empty": tiny[3:3]},
        "transposed": [weight, weight.detach().T],
        "equal": [torch.ones(900), torch.ones(900)],
    }
    repo.commit(state, "shared")
    apart = {**state, "tied": [base, base.clone()]}
    repo.commit(apart, "apart")
    return {"HEAD~1": state, "HEAD": apart}


def compressed(repo: Repository) -> States:
    """What a codec makes smaller, what it does not, and what only looks as if it could not."""
    half = torch.zeros(40_000, dtype=torch.uint8)
    half[12_000:29_000] = noise(17_000)
    state = {
        "zeros": torch.zeros(16_400),
        "ramp": torch.arange(1000) // 7,
        "noise": noise(6000, 1),
        "noise in the middle": half,
        "text": "all work and no play " * 300,
        "bytes": bytes(5000),
        "array": np.arange(2500, dtype=">u2"),
    }
    repo.commit(state, "compressed")
    return {"HEAD": state}


def _fraction(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Numbers from 0 to 1, with 24 bits each, that are the same everywhere."""
    words = noise(4 * count, seed).numpy().view("<u4") >> 8
    return words.astype("<f4") * np.float32(2**-24)


def steps(number: int) -> dict[str, Any]:
    """A state of which nearly everything changes at each step, each part in a way of its own."""
    count = 1100
    weight = sum((_fraction(count, step) - np.float32(0.5)) * np.float32(2**-12) for step in range(1, number + 1))
    weight = (_fraction(count, 0) - np.float32(0.5)) + weight
    average = _fraction(count, 100) + np.float32(2**-6)
    for step in range(1, number + 1):
        average = average * np.float32(0.75) + np.square(_fraction(count, 100 + step)) * np.float32(2**-10)
    table = _fraction(count, 200) - np.float32(0.5)
    table[number * 7 :: 101] = number
    quick = _fraction(count, 300) + sum(
        (_fraction(count, 300 + step) * np.float32(2**-6)) for step in range(1, number + 1)
    )
    tensors = {
        "weight": weight,
        "quick": quick,
        "average": average,
        "table": table,
        "half": weight.astype("<f2"),
        "double": weight.astype("<f8") * 3,
        "counts": (np.square(np.arange(count)) % 977 + number).astype("<i8"),
        "mask": np.full(count, number % 2, "u1"),
        "filled": np.full(count, number, "<f4"),
        "bytes": np.frombuffer(b" ".join(b"%d" % (n * n % 89) for n in range(1000)), "u1")[:count].copy(),
    }
    return {name: torch.from_numpy(held.copy()) for name, held in tensors.items()}


def dense(repo: Repository) -> States:
    """A history of dense steps, longer than a chain is, with a branch; one commit stores what is new as it is."""
    for number in range(5):
        repo.commit(steps(number), step=number)
    repo.branch("fork", at="step:2")
    repo.commit(steps(5), step=5, codec="none")
    repo.switch("fork")
    repo.commit(steps(7), step=7)
    repo.switch("main")
    repo.commit(steps(6), step=6)
    return {f"step:{number}": steps(number) for number in (0, 1, 2, 3, 4, 5, 6)} | {"fork": steps(7)}


def chunks(repo: Repository) -> States:
    """Storages of less than a chunk, of whole chunks, and of one byte more; a change of one byte."""
    size = repo.store.format.chunk_size
    lengths = [0, 1, size - 1, size, size + 1, 2 * size, 2 * size + size // 2]
    state = {str(length): torch.arange(length, dtype=torch.int64).remainder(251).to(torch.uint8) for length in lengths}
    changed = {name: held.clone() for name, held in state.items()}
    changed[str(2 * size + size // 2)][size] += 1
    repo.commit(state, "first")
    repo.commit(changed, "one byte")
    return {"HEAD~1": state, "HEAD": changed}


def pruned(repo: Repository) -> States:
    """Commits that were pruned, and one that gave up a part, not collected yet. Another one has the same tree whole."""
    repo.commit(small(0), "kept without its optimizer", step=0)
    repo.commit(small(1), "pruned", step=1)
    repo.commit(small(0), "the same again", step=2)
    repo.commit(small(3), "newest", step=3)
    repo.tag("kept", at="step:0")
    repo.prune(Keep(last=2, parts={"optimizer": Keep(last=2, tags=False, branches=False)}))
    return {"kept": {"model": small(0)["model"]}, "step:1": None, "step:2": small(0), "step:3": small(3)}


def collected(repo: Repository) -> States:
    """The same after gc, with a branch forgotten, a reflog expired, and pages free in the file."""
    kept = pruned(repo)
    repo.branch("gone", at="step:2")
    repo.switch("gone")
    repo.commit({"large": noise(12_000)}, "forgotten")
    repo.switch("main")
    repo.delete_branch("gone")
    repo.expire_reflog(older_than=timedelta(0))
    repo.gc()
    return kept


def compacted(repo: Repository) -> States:
    """The same, its file written anew without its free pages."""
    kept = collected(repo)
    repo.compact()
    return kept


def backup(repo: Repository) -> States:
    """A store, of which the copy is kept that `backup` makes."""
    repo.commit(small(1), "first", step=1)
    repo.tag("v1")
    repo.commit(small(2), "second", step=2)
    return {"v1": small(1), "HEAD": small(2)}


def imported(repo: Repository) -> States:
    """Commits taken from files of other programs: torch.save, safetensors and npz, with what they say of themselves."""
    weights = {"layer.bias": torch.ones(30), "layer.weight": torch.arange(900.0).reshape(30, 30)}
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder) / "old.pt"
        torch.save({"model": weights, "step": 100}, old)
        repo.import_file(old, "from torch.save", step=100)
        save_file(weights, Path(folder) / "new.safetensors", metadata={"format": "pt", "by": "hand"})
        repo.import_file(Path(folder) / "new.safetensors", part="model", step=200)
        np.savez(Path(folder) / "arrays.npz", a=np.arange(5), b=np.eye(3, dtype=np.float32))
        repo.import_file(Path(folder) / "arrays.npz", step=300)
    return {
        "step:100": {"model": weights, "step": 100},
        "step:200": {"model": weights},
        "step:300": {"a": torch.arange(5), "b": torch.eye(3)},
    }


FEATURES = {
    "history": Feature(history),
    "paged": Feature(paged),
    "shared": Feature(shared),
    "codec-none": Feature(compressed, 65536, "none"),
    "codec-fast": Feature(compressed, 65536, "fast"),
    "codec-auto": Feature(compressed, 65536, "auto"),
    "codec-small": Feature(compressed, 65536, "small"),
    "dense-auto": Feature(dense, 2048, "auto", since=2),
    "dense-small": Feature(dense, 2048, "small", since=2),
    "chunks-256": Feature(chunks, 256, "none"),
    "chunks-1m": Feature(chunks, 1 << 20, "small"),
    "pruned": Feature(pruned),
    "collected": Feature(collected),
    "compacted": Feature(compacted),
    "backup": Feature(backup, backed_up=True),
    "imported": Feature(imported),
}


def there_are(version: int) -> list[str]:
    """The features of which there are stores of a version."""
    return [name for name, feature in FEATURES.items() if feature.since <= version]


def make(name: str, hash: str, path: Path) -> States:
    """A new store with one feature at `path`, closed again; returns what must come out of it."""
    feature = FEATURES[name]
    first = path.with_name("original") if feature.backed_up else path
    with casckpt.open(first, hash=hash, chunk_size=feature.chunk_size, codec=feature.codec) as repo:
        kept = feature.fill(repo)
        if feature.backed_up:
            repo.backup(path)
    return kept
