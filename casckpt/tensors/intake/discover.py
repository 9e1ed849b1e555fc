"""Which entries of a folder are checkpoints, in which order they were made, and which step the name of each says.

Names decide; no checkpoint is opened here. The rules are written down for people in the reference of `casckpt import`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from casckpt.tensors.look import Look, look

# Of files that differ only in this, the first is taken: it is the one that can hold a whole training state.
SUFFIXES: Final = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")

_TEMPORARY: Final = re.compile(r"\.|tmp[-_.]|.*\.(tmp|temp|part|partial)(\.|$)|.*~$", re.IGNORECASE)
_BARE: Final = re.compile(r"checkpoint[-_]\d+", re.IGNORECASE)
# What transformers and its kin write into a folder that is one checkpoint: weights by which it is known, and the rest.
_WEIGHTS: Final = re.compile(
    r"(pytorch_|adapter_|diffusion_pytorch_)?model\.(safetensors|bin)|.*\.(safetensors|bin)\.index\.json|"
    r"trainer_state\.json"
)
_SHARD: Final = re.compile(r".*-\d{5}-of-\d{5}\.(safetensors|bin)")
_COMPANION: Final = re.compile(r"(optimizer|scheduler|scaler)\.(pt|bin)|rng_state(_\d+)?\.pth|training_args\.bin")
_TRANSFORMERS: Final = {"config.json", "trainer_state.json", "training_args.bin"}

_DATE: Final = re.compile(
    r"(?<!\d)(19|20)\d\d(([-_.])[01]\d\3[0-3]\d([-_T. ]?[0-2]\d([-_.:]?)[0-5]\d(\5[0-5]\d)?)?|"
    r"[01]\d[0-3]\d[-_T][0-2]\d[0-5]\d([0-5]\d)?)(?!\d)"
)
_NUMBER: Final = re.compile(r"([a-z]*)([-_=. ]?)(\d+(?:\.\d+)*)(?![a-z])", re.IGNORECASE)
_STEP_WORDS: Final = ("step", "iter", "iteration", "update")
_CHECKPOINT_WORDS: Final = ("checkpoint", "ckpt", "epoch", "model", "state", "save", "snapshot")
_MAX_STEP: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One file or folder that is a checkpoint.

    number: the one in its name; None: there is none. named_step: whether the name says that the number is a step.
    look: its files as they were found.
    """

    path: Path
    number: int | None
    named_step: bool
    look: Look

    @property
    def name(self) -> str:
        """Its name in the folder."""
        return self.path.name


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An entry that looks like a checkpoint but is not taken, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a folder holds: checkpoints in their order, and what was left out."""

    checkpoints: tuple[Checkpoint, ...]
    left_out: tuple[LeftOut, ...]


def discover(folder: Path, pattern: str | None = None) -> Found:
    """The checkpoints in a folder: by the numbers in their names, then those without one by age.

    pattern: a glob over names, instead of the rule by which checkpoints are told from other files and folders.

    Raises:
        OSError: the folder cannot be listed.
    """
    names = {entry.name for entry in folder.iterdir()}
    companions = pattern is None and not names.isdisjoint(_TRANSFORMERS)
    taken: list[Checkpoint] = []
    left_out: list[LeftOut] = []
    for name in sorted(names):
        if pattern is None and not _looks_like_one(folder / name):
            continue
        if pattern is not None and not fnmatchcase(name, pattern):
            continue
        reason = _reason_against(folder / name, companions)
        if reason is not None:
            left_out.append(LeftOut(name, reason))
        elif (found := checkpoint(folder / name)) is not None:
            taken.append(found)
    taken, twins = _without_twins(taken)
    return Found(tuple(sorted(taken, key=_order)), (*left_out, *twins))


def checkpoint(path: Path) -> Checkpoint | None:
    """One file or folder as a checkpoint, whatever its name; None where it is gone."""
    found = look(path)
    return None if found is None else Checkpoint(path, *number_in(path.name), found)


def is_checkpoint_folder(folder: Path) -> bool:
    """Whether a folder is one checkpoint, as `save_pretrained` and transformers' Trainer write them: it holds weights
    under their names, and nothing that is a checkpoint by itself.

    Raises:
        OSError: the folder cannot be listed.
    """
    names = {entry.name for entry in folder.iterdir()}
    weights = {name for name in names if _WEIGHTS.fullmatch(name) or _SHARD.fullmatch(name)}
    others = [name for name in names - weights if not _COMPANION.fullmatch(name)]
    return bool(weights) and not any(_is_one_inside(folder / name) for name in others)


def _is_one_inside(path: Path) -> bool:
    """Whether what stands beside weights is a checkpoint by itself. A folder without weights of its own is none, though
    a number is in its name: DeepSpeed's global_step500. Looked at is that folder alone, whatever links are in it."""
    if not path.is_dir():
        return path.suffix.lower() in SUFFIXES
    try:
        return any(_WEIGHTS.fullmatch(item.name) or _SHARD.fullmatch(item.name) for item in path.iterdir())
    except OSError:
        return False


def number_in(name: str) -> tuple[int | None, bool]:
    """The number in a name, and whether the name says that it is a step.

    "epoch=3-step=1200.ckpt" -> (1200, True); "checkpoint-500" -> (500, False); "gpt2_best.pt" -> (None, False).
    A number behind "step" (or iter, iteration, update) counts before one behind "checkpoint", "epoch" and the like, and
    that before one that stands by itself; of several the last. Dates, fractions and parts of words are no such numbers.
    """
    best: tuple[int, int] | None = None
    for found in _NUMBER.finditer(_DATE.sub("", _stem(name))):
        word = found[1].lower().removesuffix("s")
        if "." in found[3] or int(found[3]) > _MAX_STEP:
            continue
        if word.endswith(_STEP_WORDS):
            rank = 2
        elif word.endswith(_CHECKPOINT_WORDS):
            rank = 1
        elif found[2] or not word:
            rank = 0
        else:
            continue
        if best is None or rank >= best[0]:
            best = rank, int(found[3])
    return (None, False) if best is None else (best[1], best[0] == 2)


def _looks_like_one(path: Path) -> bool:
    if path.is_dir():
        return number_in(path.name)[0] is not None or _holds_weights(path)
    return path.suffix.lower() in SUFFIXES or _BARE.fullmatch(path.name) is not None


def _holds_weights(folder: Path) -> bool:
    try:
        return is_checkpoint_folder(folder)
    except OSError:
        return False  # gone, or not for us to read


def _reason_against(path: Path, companions: bool) -> str | None:
    """Why an entry that looks like a checkpoint is none; None where it is one."""
    if _TEMPORARY.match(path.name):
        return "a temporary name"
    if path.is_symlink() and not path.exists():
        return "a link that leads nowhere"
    if path.is_symlink() and path.resolve().parent == path.parent.resolve():
        return f"points to {path.resolve().name}"
    if path.exists() and not path.is_file() and not path.is_dir():
        return "neither a file nor a folder"
    if _SHARD.fullmatch(path.name):
        return "a shard: it is imported with its whole folder"
    if companions and _COMPANION.fullmatch(path.name):
        return "goes with a checkpoint, is none by itself"
    if path.is_dir() and not _holds_weights(path):
        return "a folder without weights by a name that is known"
    return None


def _without_twins(found: list[Checkpoint]) -> tuple[list[Checkpoint], list[LeftOut]]:
    """Of files that differ only in their suffix, the one that can hold more."""
    best: dict[str, Checkpoint] = {}
    for one in sorted(found, key=lambda one: _rank(one.path)):
        best.setdefault(_stem(one.name), one)
    kept = [one for one in found if best[_stem(one.name)] is one]
    return kept, [
        LeftOut(one.name, f"the same checkpoint as {best[_stem(one.name)].name}")
        for one in found
        if best[_stem(one.name)] is not one
    ]


def _rank(path: Path) -> int:
    suffix = path.suffix.lower()
    return SUFFIXES.index(suffix) if suffix in SUFFIXES else -1


def _stem(name: str) -> str:
    suffix = Path(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in SUFFIXES else name


def _order(one: Checkpoint) -> tuple[object, ...]:
    if one.number is None:
        return 1, one.look.mtime_ns, _natural(one.name)
    return 0, one.number, _natural(one.name)


def _natural(name: str) -> tuple[str | int, ...]:
    """By this "a_9" comes before "a_10"."""
    return tuple([int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)])
