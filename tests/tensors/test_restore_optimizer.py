"""restore of optimizers: the exact state, in place where there is one, whatever the dtypes."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from casckpt.errors import RestoreMismatchError
from casckpt.store.memory import MemoryStore
from casckpt.tensors.repository import Repository
from tests.equality import assert_same


@pytest.fixture
def repo() -> Iterator[Repository]:
    with Repository(MemoryStore(chunk_size=1024)) as made:
        yield made


class MixedAdam(torch.optim.Optimizer):
    """Adam for bf16 parameters that keeps fp32 moments and master weights, as training in bf16 does."""

    def __init__(self, params: Any, lr: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.99)})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self.state[param]
                if not state:
                    state |= {
                        "step": 0,
                        "master": param.float(),
                        "exp_avg": torch.zeros_like(param, dtype=torch.float32),
                    }
                    state["exp_avg_sq"] = torch.zeros_like(state["exp_avg"])
                grad = param.grad.float()
                state["step"] += 1
                state["exp_avg"].lerp_(grad, 1 - group["betas"][0])
                state["exp_avg_sq"].lerp_(grad * grad, 1 - group["betas"][1])
                state["master"].addcdiv_(state["exp_avg"], state["exp_avg_sq"].sqrt() + 1e-8, value=-group["lr"])
                param.copy_(state["master"])


def net(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(20, 20), torch.nn.Linear(20, 3)).to(dtype)


def steps(model: torch.nn.Module, optimizer: torch.optim.Optimizer, count: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = model(batch).float().pow(2).mean()
        loss.backward()
        return loss

    for _ in range(count):
        batch = torch.randn(4, 20, generator=generator).to(dtype)
        closure()
        optimizer.step(closure)


def state(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return copy.deepcopy({"model": dict(model.state_dict()), "optimizer": optimizer.state_dict()})


_OPTIMIZERS: dict[str, tuple[torch.dtype, Callable[[Any], torch.optim.Optimizer]]] = {
    "mixed": (torch.bfloat16, MixedAdam),
    "adamw": (torch.float32, torch.optim.AdamW),
    "adamw-bf16": (torch.bfloat16, torch.optim.AdamW),
    "amsgrad": (torch.float32, lambda params: torch.optim.Adam(params, amsgrad=True)),
    "capturable": (torch.float32, lambda params: torch.optim.Adam(params, lr=torch.tensor(0.01), foreach=False)),
    "sgd": (torch.float32, lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9)),
    "lbfgs": (torch.float32, lambda params: torch.optim.LBFGS(params, max_iter=2)),
    "rprop": (torch.float32, torch.optim.Rprop),
    "adafactor": (torch.float32, torch.optim.Adafactor),
    "asgd": (torch.float32, torch.optim.ASGD),
}


@pytest.mark.parametrize("name", _OPTIMIZERS)
def test_every_way_back_is_exact_and_training_goes_on_the_same(repo: Repository, name: str) -> None:
    dtype, make = _OPTIMIZERS[name]
    model = net(dtype)
    optimizer = make(model.parameters())
    repo.commit(state(model, optimizer), step=0)
    steps(model, optimizer, 2)
    expected = state(model, optimizer)
    repo.commit(expected, step=2)
    steps(model, optimizer, 2, seed=1)
    after = state(model, optimizer)
    fresh = net(dtype)
    for live, other in ((model, optimizer), (fresh, make(fresh.parameters()))):
        repo.restore({"model": live, "optimizer": other}, "step:2")
        assert_same(state(live, other), expected)
        steps(live, other, 2, seed=1)
        assert_same(state(live, other), after)
    repo.restore({"model": model, "optimizer": optimizer}, "step:0")
    assert not any(optimizer.state.values()), "no parameter had a state yet"
    steps(model, optimizer, 2)
    assert_same(state(model, optimizer), expected)


def test_state_is_written_in_place_and_nothing_takes_its_place(repo: Repository) -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.01), foreach=False)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    steps(model, optimizer, 1)
    repo.commit(state(model, optimizer))
    expected = state(model, optimizer)
    held = [tensor for param in model.parameters() for tensor in optimizer.state[param].values()]
    groups, rate = optimizer.param_groups[0], optimizer.param_groups[0]["lr"]
    steps(model, optimizer, 1)
    scheduler.step()
    groups["weight_decay"] = 7.0
    groups["betas"] = (0.0, 0.0)
    groups["added"] = "stays"
    repo.restore({"model": model, "optimizer": optimizer})
    assert groups.pop("added") == "stays"
    assert_same(state(model, optimizer), expected)
    now = [tensor for param in model.parameters() for tensor in optimizer.state[param].values()]
    assert all(one is other for one, other in zip(held, now, strict=True))
    assert optimizer.param_groups[0] is groups
    assert groups["lr"] is rate


def test_a_group_gets_what_only_the_saved_one_had(repo: Repository) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["initial_lr"] = 0.3
    repo.commit({"optimizer": optimizer.state_dict()})
    del optimizer.param_groups[0]["initial_lr"]
    repo.restore({"optimizer": optimizer})
    assert optimizer.param_groups[0]["initial_lr"] == 0.3


def test_a_parameter_that_had_no_state_yet_has_none_again(repo: Repository) -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    model[1].requires_grad_(False)  # type: ignore[operator,index]
    steps(model, optimizer, 1)
    repo.commit({"optimizer": optimizer.state_dict()})
    expected = copy.deepcopy(optimizer.state_dict())
    model[1].requires_grad_(True)  # type: ignore[operator,index]
    steps(model, optimizer, 1)
    assert len(optimizer.state) == 4
    repo.restore({"optimizer": optimizer})
    assert len(optimizer.state) == 2
    assert_same(optimizer.state_dict(), expected)


def _refused(repo: Repository, optimizer: torch.optim.Optimizer, path: str, problem: str) -> None:
    before = copy.deepcopy(optimizer.state_dict())
    first = torch.zeros(3)
    with pytest.raises(RestoreMismatchError, match=problem) as caught:
        repo.restore({"t": first, "optimizer": optimizer})
    assert caught.value.path == path
    assert first.sum() == 0
    assert_same(optimizer.state_dict(), before)


def test_other_groups_or_parameters_are_refused_before_anything_is_written(repo: Repository) -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    steps(model, optimizer, 1)
    repo.commit({"t": torch.ones(3), "optimizer": optimizer.state_dict()})
    one = torch.optim.AdamW(list(model.parameters())[:3])
    _refused(repo, one, "optimizer.param_groups", "the saved optimizer has groups of 4 parameters, the live one of 3")
    two = torch.optim.AdamW([{"params": module.parameters()} for module in model.children()])
    _refused(repo, two, "optimizer.param_groups", "groups of 4 parameters, the live one of 2, 2")
    larger = torch.nn.Sequential(torch.nn.Linear(21, 20), torch.nn.Linear(20, 3))
    _refused(
        repo,
        torch.optim.AdamW(larger.parameters()),
        "optimizer.state.0.exp_avg",
        r"the saved state has shape \(20, 20\), its live parameter \(20, 21\)",
    )


@pytest.mark.parametrize(
    ("saved", "path", "problem"),
    [
        (5, "optimizer", "a mapping is wanted"),
        ({}, "optimizer", "it has no 'state'"),
        ({"state": {}}, "optimizer", "it has no 'param_groups'"),
        ({"state": 5, "param_groups": []}, "optimizer.state", "a mapping is wanted here"),
        ({"state": {}, "param_groups": 5}, "optimizer.param_groups", "has groups of no parameters"),
        ({"state": {}, "param_groups": [5]}, "optimizer", "a mapping is wanted here"),
        ({"state": {}, "param_groups": [{}]}, "optimizer", "it has no 'params'"),
        ({"state": {}, "param_groups": [{"params": 5}]}, "optimizer.param_groups", "has groups of -1"),
    ],
)
def test_what_is_no_optimizers_state_is_refused(repo: Repository, saved: Any, path: str, problem: str) -> None:
    repo.commit({"t": torch.ones(3), "optimizer": saved})
    _refused(repo, torch.optim.AdamW(net().parameters()), path, problem)


def test_a_hook_that_copies_the_state_leads_through_load_state_dict(repo: Repository) -> None:
    model = net(torch.bfloat16)
    optimizer = MixedAdam(model.parameters())
    optimizer.register_state_dict_post_hook(lambda _, found: copy.deepcopy(found))
    steps(model, optimizer, 1)
    expected = state(model, optimizer)
    repo.commit(expected)
    steps(model, optimizer, 1)
    repo.restore({"model": model, "optimizer": optimizer})
    assert_same(state(model, optimizer), expected)


class Overridden(torch.optim.SGD):
    def load_state_dict(self, state_dict: Any) -> None:
        self.loaded = True
        super().load_state_dict({key: state_dict.pop(key) for key in list(state_dict)})


@pytest.mark.parametrize("way", ["override", "pre_hook", "post_hook"])
def test_what_an_optimizer_does_when_it_is_loaded_is_done(repo: Repository, way: str) -> None:
    model = net(torch.bfloat16)
    optimizer = (Overridden if way == "override" else torch.optim.SGD)(model.parameters(), lr=0.1, momentum=0.9)

    def hook(live: Any, *args: Any) -> None:
        live.loaded = True

    if way != "override":
        getattr(optimizer, f"register_load_state_dict_{way}")(hook)
    steps(model, optimizer, 2)
    for held in optimizer.state.values():
        held["exact"] = torch.full((3,), 0.1)  # fp32, which load_state_dict alone would round
    saved = copy.deepcopy(optimizer.state_dict())
    repo.commit({"optimizer": saved})
    steps(model, optimizer, 1)
    repo.restore({"optimizer": optimizer})
    assert vars(optimizer).get("loaded")
    assert_same(optimizer.state_dict(), saved)


def test_state_in_a_mapping_of_another_type_is_restored_whole(repo: Repository) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    steps(model, optimizer, 1)
    for held in optimizer.state.values():
        held["extra"] = {"n": 1}
    saved = copy.deepcopy(optimizer.state_dict())
    repo.commit({"optimizer": saved})
    for param in model.parameters():
        optimizer.state[param] = OrderedDict(optimizer.state[param], extra={"n": 2})
    repo.restore({"optimizer": optimizer})
    assert_same(optimizer.state_dict(), saved)
