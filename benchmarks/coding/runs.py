"""Real training, made on the spot: what its tensors were at a few steps, and stores that it committed to on its way.

Each run is a process of its own, since a training run of the demo sets torch's threads for all of its process. The same
scale gives the same bytes: the runs are deterministic.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from casckpt.cli.demo.plan import Plan, make_plan

PEAK_RATE = 1e-3
FINE_RATE = 1e-4
SGD_RATE = 0.1
HISTORY = "history"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is trained.

    steps: updates, of which the learning rate's schedule knows. at: the step whose tensors are coded. backs: how many
    steps before it the parents are. first, every, commits: of the histories. pruned: the commits of which every second
    is pruned. frozen_from: the step at which a fine-tune begins. layers: of the model, and of the one that is
    fine-tuned. rows: of the embedding that is updated here and there.
    """

    steps: int
    at: int
    backs: tuple[int, ...]
    first: int
    every: int
    commits: int
    pruned: int
    frozen_from: int
    layers: tuple[int, int]
    width: int
    context: int
    rows: int

    def plan(self, layers: int) -> Plan:
        """The demo's transformer, trained for so long."""
        return replace(
            make_plan(self.steps, layers),
            rate=PEAK_RATE,
            width=self.width,
            heads=self.width // 32,
            context=self.context,
        )

    @property
    def captured(self) -> frozenset[int]:
        """The steps whose tensors are kept."""
        return frozenset({self.at, *(self.at - back for back in self.backs)})

    @property
    def committed(self) -> tuple[int, ...]:
        """The steps that are committed."""
        return tuple(range(self.first, self.first + self.commits * self.every, self.every))

    def dumps(self) -> str:
        return json.dumps({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def loads(cls, text: str) -> Scale:
        found = json.loads(text)
        return cls(**{**found, "backs": tuple(found["backs"]), "layers": tuple(found["layers"])})


FULL = Scale(600, 300, (1, 10, 100), 110, 10, 50, 40, 100, (6, 10), 192, 64, 1 << 14)
QUICK = Scale(24, 14, (1, 4), 9, 2, 8, 6, 3, (2, 4), 96, 32, 1 << 11)

Tensors = dict[str, dict[str, Any]]
"""Stream, then tensor."""


@dataclass(frozen=True, slots=True)
class Stepped:
    """A run on its way. update: one optimizer update. tensors: those to be coded. state: what is committed."""

    update: Callable[[], object]
    tensors: Callable[[], Tensors]
    state: Callable[[], Any] | None = None
    before: Callable[[int], object] = lambda step: None


def adamw_fp32(scale: Scale) -> Stepped:
    """The demo as it is, in float32; all of its state is committed."""
    run = _training(scale.plan(scale.layers[0]))
    return Stepped(_updates(run), lambda: _adam_streams(run, "blocks"), run.state)


def adamw_bf16(scale: Scale) -> Stepped:
    """Weights, and with them Adam's moments, in bfloat16; the weights alone are committed."""
    import torch
    from torch.optim import AdamW
    from torch.optim.lr_scheduler import LambdaLR

    run = _training(scale.plan(scale.layers[0]))
    run.model.to(torch.bfloat16)
    run.optimizer = AdamW(run.model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    run.scheduler = LambdaLR(run.optimizer, run.scheduler.lr_lambdas[0])
    return Stepped(_updates(run), lambda: _adam_streams(run, "blocks"), lambda: {"model": run.model.state_dict()})


def sgd(scale: Scale) -> Stepped:
    """SGD with momentum, in float32."""
    from torch.optim import SGD
    from torch.optim.lr_scheduler import LambdaLR

    run = _training(scale.plan(scale.layers[0]))
    run.optimizer = SGD(run.model.parameters(), lr=SGD_RATE, momentum=0.9)
    run.scheduler = LambdaLR(run.optimizer, run.scheduler.lr_lambdas[0])
    return Stepped(_updates(run), lambda: _streams(run, "blocks", {"momentum": "momentum_buffer"}))


def fine_tune(scale: Scale) -> Stepped:
    """The last block of ten, trained on at a low rate from where training of all had come to. The state that is
    committed is the whole one: frozen weights, and the moments that the optimizer still has of them."""
    run = _training(scale.plan(scale.layers[1]))

    def before(step: int) -> None:
        if step == scale.frozen_from:
            run.model.freeze_all_but_last()
            run.scheduler.base_lrs = [FINE_RATE]

    last = f"blocks.{scale.layers[1] - 1}."
    return Stepped(_updates(run), lambda: _adam_streams(run, last), run.state, before)


def embedding(scale: Scale) -> Stepped:
    """A table of the contexts of three bytes, of which each update moves the rows that came up (SparseAdam)."""
    import torch
    from torch import nn
    from torch.nn import functional
    from torch.optim import AdamW, SparseAdam

    run = _training(scale.plan(1))  # for its text
    table = nn.Embedding(scale.rows, 128, sparse=True)
    nn.init.normal_(table.weight, std=0.02)
    out = nn.Linear(128, 256)
    sparse, rest = SparseAdam(table.parameters(), lr=PEAK_RATE), AdamW(out.parameters(), lr=PEAK_RATE)
    batches = run.epochs()

    def update() -> None:
        text, following = next(batches)
        places = (text[:, :-2] * 65_599 + text[:, 1:-1] * 257 + text[:, 2:]) * 40_503 % scale.rows
        loss = functional.cross_entropy(out(table(places)).flatten(0, 1), following[:, 2:].flatten())
        sparse.zero_grad()
        rest.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        sparse.step()
        rest.step()

    def tensors() -> Tensors:
        held = sparse.state[table.weight]
        named = {"weights": table.weight.detach(), "exp_avg": held["exp_avg"], "exp_avg_sq": held["exp_avg_sq"]}
        return {stream: {"table": torch.as_tensor(tensor)} for stream, tensor in named.items()}

    return Stepped(update, tensors)


RUNS: dict[str, Callable[[Scale], Stepped]] = {
    "AdamW fp32": adamw_fp32,
    "AdamW bf16": adamw_bf16,
    "SGD with momentum": sgd,
    "fine-tune, its trained block": fine_tune,
    "sparse embedding": embedding,
}
COMMITTED = ("AdamW fp32", "AdamW bf16", "fine-tune, its trained block")


def run(name: str, scale: Scale, folder: Path) -> None:
    """Train, and leave `captured.npz` in the folder, `step/stream/tensor` -> unsigned words; and where the run is one
    that is committed the store of its history, with codec "auto"."""
    import casckpt

    made = RUNS[name](scale)
    kept: dict[str, Any] = {}
    repo = casckpt.open(folder / HISTORY, codec="auto") if name in COMMITTED else None
    due = scale.committed if repo is not None else ()
    try:
        for step in range(1, max(*scale.captured, *due) + 1):
            made.before(step)
            made.update()
            if step in scale.captured:
                for stream, tensors in made.tensors().items():
                    kept.update({f"{step}/{stream}/{key}": _words(tensor) for key, tensor in tensors.items()})
            if repo is not None and made.state is not None and step in due:
                repo.commit(made.state(), step=due.index(step))
        if repo is not None and made.state is not None:
            _check(repo.load(), made.state())
    finally:
        if repo is not None:
            repo.close()
    np.savez(folder / "captured.npz", **kept)


def _training(plan: Plan) -> Any:
    from casckpt.cli.demo.training import Training

    return Training(plan)


def _updates(run: Any) -> Callable[[], object]:
    batches: Iterator[Any] = run.epochs()
    return lambda: run.update(next(batches))


def _adam_streams(run: Any, under: str) -> Tensors:
    return _streams(run, under, {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"})


def _streams(run: Any, under: str, moments: dict[str, str]) -> Tensors:
    """The matrices of blocks, and what the optimizer holds of each."""
    parameters = {
        name: parameter
        for name, parameter in run.model.named_parameters()
        if parameter.dim() == 2 and name.startswith(under)
    }
    found: Tensors = {"weights": {name: parameter.detach() for name, parameter in parameters.items()}}
    for stream, key in moments.items():
        found[stream] = {name: run.optimizer.state[parameter][key] for name, parameter in parameters.items()}
    return found


def _words(tensor: Any) -> np.ndarray[Any, Any]:
    """A copy of a tensor's bytes as unsigned words."""
    import torch

    kinds = {2: torch.int16, 4: torch.int32}
    words = tensor.contiguous().view(kinds[tensor.element_size()]).flatten().numpy()
    return words.view(f"<u{words.itemsize}").copy()


def _check(found: Any, expected: Any) -> None:
    """What was loaded is what was committed, to the bit, as far as there are tensors in it."""
    import torch

    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            _check(found[key], value)
    elif isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        mine, other = (tensor.contiguous().flatten().view(torch.uint8) for tensor in (found, expected))
        assert torch.equal(mine, other)
