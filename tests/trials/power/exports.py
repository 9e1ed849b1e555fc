"""Exports while power may fail: what is at a target then is what was there before, or the new one, each whole."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, Final

import torch

import casckpt

KINDS: Final = {
    "safetensors": ("model.safetensors", {}),
    "torch": ("model.pt", {}),
    "npz": ("model.npz", {}),
    "pretrained": ("model", {}),
    "pretrained in shards": ("model", {"format": "pretrained", "max_shard_size": 6000}),
    "shards": ("model.safetensors", {"max_shard_size": 6000}),
}
"""For each kind of export the name of its target, which stands in a folder of its own, and how it is asked for."""


def state(number: int) -> dict[str, Any]:
    """What is exported: never twice the same."""
    random = torch.Generator().manual_seed(number)
    return {f"layer{at}": torch.rand(1 + number % 3, 500, generator=random) for at in range(4)}


def holds(folder: Path, kind: str) -> dict[str, str]:
    """What whoever reads an export finds there: each file with the hash of its contents.

    A file that is hidden is nobody's, unless it is in the folder of a model. Shards are nothing without their index,
    and are not looked at where there is a file of all weights.
    """
    names = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    visible = {name: path for name, path in names.items() if not name.startswith(".")}
    if kind == "shards":
        if "model.safetensors" in visible:
            visible = {"model.safetensors": visible["model.safetensors"]}
        elif "model.safetensors.index.json" not in visible:
            visible = {}
    return {name: sha256(path.read_bytes()).hexdigest() for name, path in sorted(visible.items())}


def tell(folder: str, seed: int, acts: int, say: Callable[[str], None]) -> None:
    """Export one commit after another to the same few places."""
    torch.set_num_threads(1)
    random = Random(seed)
    out = Path(folder)
    there: dict[str, dict[str, str]] = {}
    with casckpt.open(f"{folder} of it") as repo:
        for kind in KINDS:
            (out / kind).mkdir()
        # Made by whoever exports, who sees to them: `fsync` of each, and of what they are in.
        _sync(out, *(out / kind for kind in KINDS))
        say(json.dumps({"acknowledged": there, "doing": None}))
        for number in range(acts):
            repo.commit(state(number))
            kind = random.choice([*KINDS])
            name, how = KINDS[kind]
            if kind == "shards" and len(there.get(kind, {})) != 1:
                if there.get(kind):
                    continue  # several files are never replaced
                how = {}
            say(json.dumps({"doing": {"what": kind}}))
            repo.export("HEAD", out / kind / name, overwrite=number % 2 == 0 or bool(there.get(kind)), **how)
            there = {**there, kind: holds(out / kind, kind)}
            say(json.dumps({"acknowledged": there, "doing": None}))


def _sync(*folders: Path) -> None:
    for folder in folders:
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def check(folder: str, seed: int, acknowledged: Any, doing: Any, then: Any, draw: int) -> str:
    """Look at every place; returns in words what was found at the one that was being written."""
    if acknowledged is None:
        return "before the first"
    found = "all as acknowledged"
    for kind in KINDS:
        before, now = acknowledged.get(kind, {}), holds(Path(folder) / kind, kind)
        if now == before:
            if doing is not None and doing["what"] == kind:
                found = f"of {kind}: the old one"
            continue
        assert doing is not None and doing["what"] == kind, f"{kind} is {now}, not {before}, in {doing}"
        assert then is not None and now == then[kind], f"{kind} is {now}, neither {before} nor {then and then[kind]}"
        found = f"of {kind}: the new one"
    return found
