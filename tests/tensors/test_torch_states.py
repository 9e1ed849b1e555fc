"""Whatever torch, random and numpy.random return as state is saved with no help, and training goes on from it."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn

from tests.equality import assert_same
from tests.tensors.dict_store import round_trip

OPTIMIZERS = sorted(
    name
    for name, item in vars(torch.optim).items()
    if isinstance(item, type) and issubclass(item, torch.optim.Optimizer) and item is not torch.optim.Optimizer
)
_SETTINGS: dict[str, list[dict[str, Any]]] = {
    "Adam": [{}, {"amsgrad": True, "foreach": True}, {"lr": torch.tensor(0.01), "capturable": False}, {"fused": True}],
    "AdamW": [{}, {"amsgrad": True, "maximize": True}],
    "SGD": [{"momentum": 0.9, "nesterov": True}, {}],
    "RMSprop": [{"momentum": 0.9, "centered": True}],
}
CASES = [(name, settings) for name in OPTIMIZERS for settings in _SETTINGS.get(name, [{}])]


class Model(torch.nn.Module):
    """Two matrices, which is what every optimizer takes; with `sparse`, an embedding whose gradient is sparse."""

    def __init__(self, *, sparse: bool = False) -> None:
        super().__init__()
        self.sparse = sparse
        if sparse:
            self.embedding = torch.nn.Embedding(7, 3, sparse=True)
        else:
            self.first = torch.nn.Linear(4, 5, bias=False)
            self.second = torch.nn.Linear(5, 1, bias=False)

    def loss(self, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        if self.sparse:
            return self.embedding(torch.randint(0, 7, (4,), generator=generator)).square().sum()
        x = torch.randn(8, 4, generator=generator)
        return (self.second(torch.tanh(self.first(x))) - 1).square().mean()


def _train(
    model: Model, optimizer: torch.optim.Optimizer, seeds: range, after: Callable[[], None] = lambda: None
) -> None:
    for seed in seeds:

        def closure(seed: int = seed) -> torch.Tensor:
            optimizer.zero_grad()
            loss = model.loss(seed)
            loss.backward()
            return loss

        optimizer.step(closure)
        after()


@pytest.mark.parametrize(("name", "settings"), CASES, ids=lambda case: str(case))
def test_an_optimizer_goes_on_from_its_state_as_if_never_left(name: str, settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Model(sparse=name == "SparseAdam")

    def make(model: Model) -> torch.optim.Optimizer:
        groups = [{"params": [p], "tag": (i, None)} for i, p in enumerate(model.parameters())]
        given = list(model.parameters()) if name == "LBFGS" else groups
        return getattr(torch.optim, name)(given, **copy.deepcopy(settings))  # type: ignore[no-any-return]

    optimizer = make(model)
    _train(model, optimizer, range(3))
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    loaded: Any = round_trip(state)
    assert_same(state, loaded)

    resumed = Model(sparse=model.sparse)
    resumed.load_state_dict(loaded["model"])
    resumed_optimizer = make(resumed)
    resumed_optimizer.load_state_dict(loaded["optimizer"])
    _train(model, optimizer, range(3, 6))
    _train(resumed, resumed_optimizer, range(3, 6))
    assert_same(model.state_dict(), resumed.state_dict())
    assert_same(optimizer.state_dict(), resumed_optimizer.state_dict())


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, 0.1, 2), schedulers.ExponentialLR(o, 0.9)], optimizer=o
    ),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, 0.5, 3),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, 7),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 2, 2),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.01, 0.1, 2, mode="exp_range", gamma=0.9),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, 0.9),
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda epoch: 0.9**epoch),
    "LinearLR": lambda o: schedulers.LinearLR(o, 0.1, 1.0, 4),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [1, 3, 3]),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda epoch: 0.95),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=20),
    "OneCycleLR linear": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=20, anneal_strategy="linear"),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, 5, 2.0),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=0),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.1, 1.0, 2), schedulers.CosineAnnealingLR(o, 5)], [2]
    ),
    "StepLR": lambda o: schedulers.StepLR(o, 2),
    "SWALR": lambda o: SWALR(o, 0.01, 3),
    "SWALR linear": lambda o: SWALR(o, 0.01, 3, "linear"),
}


def test_every_scheduler_of_torch_is_tried() -> None:
    bases = {"LRScheduler", "_LRScheduler"}
    known = {
        name
        for name, item in vars(schedulers).items()
        if isinstance(item, type) and issubclass(item, schedulers.LRScheduler) and name not in bases
    }
    assert known <= set(SCHEDULERS)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_goes_on_from_its_state_as_if_never_left(name: str) -> None:
    def make() -> tuple[torch.optim.Optimizer, Any]:
        optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=0.1, momentum=0.9)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some schedulers step their parts when they are made
            return optimizer, SCHEDULERS[name](optimizer)

    def step(optimizer: torch.optim.Optimizer, scheduler: Any, count: int) -> list[float]:
        rates = []
        for at in range(count):
            optimizer.step()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                scheduler.step(*([1.0 + at] if name == "ReduceLROnPlateau" else []))
            rates.append(optimizer.param_groups[0]["lr"])
        return rates

    optimizer, scheduler = make()
    step(optimizer, scheduler, 3)
    state = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    loaded: Any = round_trip(state)
    assert_same(state, loaded)
    resumed_optimizer, resumed = make()
    resumed_optimizer.load_state_dict(loaded["optimizer"])
    resumed.load_state_dict(loaded["scheduler"])
    assert step(optimizer, scheduler, 5) == step(resumed_optimizer, resumed, 5)


def test_functions_that_states_of_some_torch_versions_hold_come_back_by_name() -> None:
    for function in (SWALR._cosine_anneal, SWALR._linear_anneal):
        assert round_trip([function]) == [function]


@pytest.mark.parametrize("enabled", [True, False])
def test_a_grad_scaler_comes_back(enabled: bool) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0, growth_interval=2, enabled=enabled)
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for seed in range(3):
        scaler.scale(model.loss(seed)).backward()
        scaler.step(optimizer)
        scaler.update()
    state = scaler.state_dict()
    assert_same(state, round_trip(state))
    resumed = torch.amp.GradScaler("cpu", enabled=enabled)
    resumed.load_state_dict(round_trip(state))  # type: ignore[arg-type]
    assert resumed.state_dict() == state


def test_an_averaged_model_comes_back() -> None:
    averaged = AveragedModel(Model(), multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    averaged.update_parameters(Model())
    loaded: Any = round_trip(averaged.state_dict())
    assert_same(averaged.state_dict(), loaded)
    AveragedModel(Model(), multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True).load_state_dict(loaded)


def test_pythons_generator_goes_on_from_its_state() -> None:
    random.gauss(0, 1)
    state = random.getstate()
    loaded: Any = round_trip(state)
    assert_same(state, loaded)
    drawn = [random.random(), random.gauss(0, 1)]
    random.setstate(loaded)
    assert [random.random(), random.gauss(0, 1)] == drawn


def test_torchs_generators_go_on_from_their_states() -> None:
    torch.randn(3)
    own = torch.Generator().manual_seed(3)
    loaded: Any = round_trip([torch.get_rng_state(), own.get_state()])
    drawn = [torch.randn(5), torch.randn(5, generator=own)]
    torch.set_rng_state(loaded[0])
    own.set_state(loaded[1])
    assert_same(drawn, [torch.randn(5), torch.randn(5, generator=own)])


def test_numpys_global_generator_goes_on_from_its_state() -> None:
    np.random.standard_normal()
    for legacy in (True, False):
        loaded: Any = round_trip(np.random.get_state(legacy=legacy))
        assert_same(np.random.get_state(legacy=legacy), loaded)
        drawn = np.random.standard_normal(3)
        np.random.set_state(loaded)
        assert_same(drawn, np.random.standard_normal(3))


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_numpys_generators_go_on_from_their_states(kind: str) -> None:
    generator = np.random.Generator(getattr(np.random, kind)(1))
    generator.integers(0, 9, 3, dtype=np.int32)
    state = generator.bit_generator.state
    loaded: Any = round_trip(state)
    assert_same(state, loaded)
    resumed = np.random.Generator(getattr(np.random, kind)(2))
    resumed.bit_generator.state = loaded
    assert_same(generator.standard_normal(5), resumed.standard_normal(5))
