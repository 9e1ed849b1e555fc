"""What coding must reach, what it aims at, and what it reached, judged by medians."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.coding.coders import Auto, ZipNN, ZipNNXor
from benchmarks.coding.found import Found
from benchmarks.coding.runs import Scale
from benchmarks.coding.speed import Measured
from benchmarks.coding.streams import name_of
from benchmarks.goals import AIM, MISSED, REACHED, UNMEASURED
from benchmarks.measure import Spread

FP32, BF16, SGD, TUNED, SPARSE = (
    "AdamW fp32",
    "AdamW bf16",
    "SGD with momentum",
    "fine-tune, its trained block",
    "sparse embedding",
)
HISTORIES = {
    "fp32 AdamW, whole state": FP32,
    "bf16 weights": BF16,
    "fine-tune of one block in ten, whole state": TUNED,
}

# Histories whose load is held against a raw one, each with the name of its figures.
LOADS = {"fp32 AdamW, whole state": "load", "bf16 weights": "load of bf16 weights"}

Value = Callable[[Found], "Spread | None"]


@dataclass(frozen=True, slots=True)
class Goal:
    """value: of a run's figures; None where they are not there. at_least: whether more is better. unit: as shown."""

    title: str
    value: Value
    must: float
    aim: float
    at_least: bool = True
    unit: str = "×"


@dataclass(frozen=True, slots=True)
class Judged:
    """A goal and what came out."""

    goal: Goal
    status: str
    found: Spread | None

    def to_dict(self) -> dict[str, Any]:
        goal, found = self.goal, self.found
        spread = None if found is None else {"median": found.median, "least": found.least, "most": found.most}
        sense = "at least" if goal.at_least else "at most"
        return {
            "title": goal.title,
            "status": self.status,
            "found": spread,
            "must": goal.must,
            "aim": goal.aim,
            "sense": sense,
        }


def judge(goal: Goal, found: Found) -> Judged:
    """Which of must and aim is reached, by the median."""
    value = goal.value(found)
    if value is None:
        return Judged(goal, UNMEASURED, None)
    sign = 1 if goal.at_least else -1
    at = sign * value.median
    status = AIM if at >= sign * goal.aim else REACHED if at >= sign * goal.must else MISSED
    return Judged(goal, status, value)


def goals(scale: Scale) -> list[Goal]:
    """The table's lines, in its order."""
    one, ten = scale.backs[0], scale.backs[1]
    made: list[Goal] = []

    def ratio(run: str, part: str, back: int | None, title: str, must: float, aim: float) -> None:
        made.append(Goal(title, _ratio(name_of(run, part, back)), must, aim))

    def faster(run: str, part: str, back: int | None, title: str, aim: float) -> None:
        made.append(Goal(title, _faster(name_of(run, part, back)), 2.0, aim))

    ratio(FP32, "weights", one, f"fp32 weights, delta to {one} step before", 1.55, 1.7)
    ratio(FP32, "weights", ten, f"fp32 weights, {ten} steps", 1.35, 1.45)
    for back in (one, ten):
        faster(FP32, "weights", back, f"… encoded, against ZipNN on XOR, {back} step{'' if back == 1 else 's'}", 2.0)
    ratio(BF16, "weights", one, f"bf16 weights, delta to {one} step before", 3.8, 4.5)
    ratio(BF16, "weights", ten, f"bf16 weights, {ten} steps", 2.2, 2.6)
    ratio(FP32, "exp_avg_sq", one, f"Adam exp_avg_sq, {one} step", 1.48, 1.6)
    adam = [(run, part) for run in (FP32, BF16) for part in ("weights", "exp_avg", "exp_avg_sq")]
    for run, part in (*adam, (SGD, "weights"), (SGD, "momentum")):
        name = name_of(run, part, None)
        label = "SGD" if run == SGD else _short(run)
        made.append(Goal(f"{label} {part}, no parent: size against ZipNN's", _against(name, ZipNN.name), 0.985, 1))
        made.append(Goal("… encoded, against ZipNN", _faster(name), 2.0, 3.0))
    over = name_of(FP32, "exp_avg", one)
    alone = name_of(FP32, "exp_avg", None)
    made.append(Goal(f"fp32 exp_avg, {one} step: size against ZipNN's, no parent", _other(over, alone), 0.985, 1))
    for run in (FP32, BF16):
        for back in (one, ten):
            title = f"{_short(run)} weights, {back} step{'' if back == 1 else 's'}: size against ZipNN's on XOR"
            made.append(Goal(title, _against(name_of(run, "weights", back), ZipNNXor.name), 1.05, 1.15))
    made.append(Goal("decode against encode, the slowest of all streams", _least(_decoding), 1.0, 1.0))
    for what in ("decode", "encode"):
        made.append(Goal(f"{what} by two threads against one, the median stream", _two_threads(what), 1.7, 1.9))
    made.append(Goal("choosing how, of the time of encoding, the median stream", _choosing, 0.03, 0.01, False, "share"))
    limits = ((0.80, 0.74), (0.48, 0.42), (0.10, 0.07))
    for title, (must, aim) in zip(HISTORIES, limits, strict=True):
        value = _store(f"file of {title}, {scale.commits} commits", Auto.mode)
        made.append(Goal(f"{title}, {scale.commits} commits, file against raw", value, must, aim, False))
    for title, what in LOADS.items():
        value = _store(what, "auto", "none")
        made.append(Goal(f"full load over the most deltas against a raw load, {title}", value, 3, 2, False))
    made.append(Goal("`commit_async` stall, auto against none", _store("stall", "auto", "none"), 1.1, 1.0, False))
    after = _store("file after gc", "pruned", "fresh")
    made.append(Goal("every second commit pruned, gc, compact: file against a new one", after, 1.10, 1.05, False))
    return made


def _short(run: str) -> str:
    return run.split()[-1]


def _ratio(stream: str) -> Value:
    def value(found: Found) -> Spread | None:
        one = found.streams.get(stream)
        return None if one is None or Auto.name not in one.coded else Spread.of((one.coded[Auto.name].ratio,))

    return value


def _against(stream: str, peer: str) -> Value:
    def value(found: Found) -> Spread | None:
        one = found.streams.get(stream)
        if one is None or peer not in one.coded:
            return None
        return Spread.of((one.coded[Auto.name].ratio / one.coded[peer].ratio,))

    return value


def _other(stream: str, alone: str) -> Value:
    """casckpt over a parent against ZipNN without one."""

    def value(found: Found) -> Spread | None:
        mine, other = found.streams.get(stream), found.streams.get(alone)
        if mine is None or other is None or ZipNN.name not in other.coded:
            return None
        return Spread.of((mine.coded[Auto.name].ratio / other.coded[ZipNN.name].ratio,))

    return value


def _faster(stream: str) -> Value:
    """How many times as fast as ZipNN a stream is encoded on one core, in each repeat."""

    def value(found: Found) -> Spread | None:
        one = found.streams.get(stream)
        if one is None:
            return None
        peer = next((one.coded[name] for name in (ZipNN.name, ZipNNXor.name) if name in one.coded), None)
        if peer is None:
            return None
        pairs = zip(one.coded[Auto.name].speeds["encode cpu"].values, peer.speeds["encode cpu"].values, strict=True)
        return Spread.of(tuple(mine / other for mine, other in pairs))

    return value


def _quotients(one: Measured, over: str, under: str) -> tuple[float, ...]:
    speeds = one.coded[Auto.name].speeds
    return tuple(mine / other for mine, other in zip(speeds[over].values, speeds[under].values, strict=True))


def _decoding(one: Measured) -> Spread:
    return Spread.of(_quotients(one, "decode cpu", "encode cpu"))


def _judged_streams(found: Found) -> Iterator[Measured]:
    for name, one in found.streams.items():
        if name.startswith((FP32, BF16)) and Auto.name in one.coded:
            yield one


def _least(of: Callable[[Measured], Spread]) -> Value:
    def value(found: Found) -> Spread | None:
        return min((of(one) for one in _judged_streams(found)), key=lambda spread: spread.median, default=None)

    return value


def _two_threads(what: str) -> Value:
    def value(found: Found) -> Spread | None:
        return _over_streams([Spread.of(_quotients(one, f"{what} 2", f"{what} 1")) for one in _judged_streams(found)])

    return value


def _choosing(found: Found) -> Spread | None:
    return _over_streams([one.choosing.spread for one in _judged_streams(found)])


def _over_streams(spreads: list[Spread]) -> Spread | None:
    """Of the medians of some streams."""
    return Spread.of(tuple(spread.median for spread in spreads)) if spreads else None


def _store(quantity: str, of: str, to: str | None = None) -> Value:
    def value(found: Found) -> Spread | None:
        systems = found.stores.get(quantity, {})
        if of not in systems or (to is not None and to not in systems):
            return None
        if to is None:
            return systems[of].spread
        pairs = zip(systems[of].values, systems[to].values, strict=True)
        return Spread.of(tuple(mine / other for mine, other in pairs))

    return value
