"""restore of modules: their own memory is written, by keys that see through wrappers; nothing where it does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from casckpt.errors import RestoreMismatchError
from casckpt.store.memory import MemoryStore
from casckpt.tensors.repository import Repository
from casckpt.tensors.restore_module import match_keys
from tests.equality import assert_same


@pytest.fixture
def repo() -> Iterator[Repository]:
    with Repository(MemoryStore(chunk_size=1024)) as made:
        yield made


def net(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(20, 20), torch.nn.BatchNorm1d(20), torch.nn.Linear(20, 3)).bfloat16()


def state(module: torch.nn.Module) -> dict[str, Any]:
    return {key: held.clone() for key, held in module.state_dict().items()}


def test_a_module_is_written_in_place(repo: Repository) -> None:
    saved = net(0)
    saved(torch.randn(4, 20).bfloat16())
    repo.commit({"model": saved.state_dict()})
    live = net(1)
    pointers = [held.data_ptr() for held in live.state_dict().values()]
    parameters = list(live.parameters())
    repo.restore({"model": live})
    assert_same(state(live), state(saved))
    assert pointers == [held.data_ptr() for held in live.state_dict().values()]
    assert all(one is other for one, other in zip(parameters, live.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in live.parameters())


def test_tied_weights_stay_tied(repo: Repository) -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(50, 30)
            self.head = torch.nn.Linear(30, 50, bias=False)
            self.head.weight = self.embed.weight

    saved, live = Tied(), Tied()
    repo.commit({"model": saved.state_dict()})
    repo.restore({"model": live})
    assert torch.equal(live.embed.weight, saved.embed.weight)
    assert live.head.weight is live.embed.weight


class _Wrapper(torch.nn.Module):
    """As DistributedDataParallel names things."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module


def _wrapped(kind: str, module: torch.nn.Module) -> torch.nn.Module:
    if kind == "compiled":
        return torch.compile(module, backend="eager")  # type: ignore[return-value]
    if kind == "part compiled":
        module[0] = torch.compile(module[0], backend="eager")  # type: ignore[operator,index]
        return module
    if kind == "distributed":
        return _Wrapper(module)
    if kind == "distributed compiled":
        return _Wrapper(_wrapped("compiled", module))
    return module


_KINDS = ("plain", "compiled", "part compiled", "distributed", "distributed compiled")


@pytest.mark.parametrize("live_kind", _KINDS)
@pytest.mark.parametrize("saved_kind", _KINDS)
def test_wrappers_are_seen_through_on_both_sides(repo: Repository, saved_kind: str, live_kind: str) -> None:
    saved, live = net(0), net(1)
    expected = state(saved)
    repo.commit({"model": _wrapped(saved_kind, saved).state_dict()})
    repo.restore({"model": _wrapped(live_kind, live)})
    assert_same([*state(live).values()], [*expected.values()])


@pytest.mark.parametrize(
    ("live", "saved", "expected"),
    [
        (["module.w"], ["module.w"], {"module.w": "module.w"}),
        (["module.w", "n"], ["module.w", "n"], {"module.w": "module.w", "n": "n"}),
        (["w"], ["module.w", "n"], {"w": "module.w"}),
        (["a._orig_mod.w"], ["a.w"], {"a._orig_mod.w": "a.w"}),
        (["a.module.w"], ["a.w"], {}),
        (["w", "module._orig_mod.w"], ["w", "module.w"], {"w": "w", "module._orig_mod.w": "module.w"}),
        (["w", "module.w"], ["w"], {"w": "w"}),
        (["w"], ["w", "module.w"], {"w": "w"}),
        (["x"], [], {}),
    ],
)
def test_keys_match_exactly_where_they_can(live: list[str], saved: list[str], expected: dict[str, str]) -> None:
    assert match_keys(live, saved) == expected


def test_keys_of_one_side_only_are_an_error_unless_strict_is_off(repo: Repository) -> None:
    saved = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)})
    live = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "c": torch.nn.Linear(2, 2)})
    before = state(live)
    repo.commit({"model": saved.state_dict()})
    problem = r"at model: 2 keys are missing from the commit \(c\.weight, c\.bias\), and 2 saved keys are unexpected"
    with pytest.raises(RestoreMismatchError, match=problem):
        repo.restore({"model": live})
    assert_same(state(live), before)
    repo.restore({"model": live}, strict=False)
    assert torch.equal(live["a"].weight, saved["a"].weight)  # type: ignore[arg-type]
    assert torch.equal(live["c"].weight, before["c.weight"])  # type: ignore[arg-type]


def test_many_keys_are_not_all_listed(repo: Repository) -> None:
    repo.commit({"model": {}})
    with pytest.raises(RestoreMismatchError, match=r"7 keys are missing from the commit \(.*, …\)"):
        repo.restore({"model": torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(2, 2))})


@pytest.mark.parametrize("strict", [True, False])
def test_another_shape_or_dtype_is_always_an_error(repo: Repository, strict: bool) -> None:
    repo.commit({"model": torch.nn.Linear(3, 2).state_dict()})
    for live in (torch.nn.Linear(2, 3), torch.nn.Linear(3, 2).half(), torch.nn.Linear(3, 2, device="meta")):
        with pytest.raises(RestoreMismatchError, match=r"at model\.weight: "):
            repo.restore({"model": live}, strict=strict)


def test_a_part_that_is_no_module_is_refused(repo: Repository) -> None:
    repo.commit({"model": 5, "other": {"weight": "text", "bias": torch.zeros(2)}})
    with pytest.raises(RestoreMismatchError, match="at model: a mapping is wanted"):
        repo.restore({"model": torch.nn.Linear(2, 2)})
    with pytest.raises(RestoreMismatchError, match=r"at other\.weight: a tensor is wanted"):
        repo.restore({"other": torch.nn.Linear(2, 2)})


def test_a_module_whose_state_dict_is_a_copy_goes_through_load_state_dict(repo: Repository) -> None:
    saved, live = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    repo.commit({"model": saved.state_dict()})

    def hook(module: Any, found: dict[str, Any], prefix: str, metadata: Any) -> None:
        for key in found:
            found[key] = found[key].clone()

    live.register_state_dict_post_hook(hook)
    repo.restore({"model": live})
    assert torch.equal(live.weight, saved.weight)


def test_a_module_with_sparse_buffers_goes_through_load_state_dict(repo: Repository) -> None:
    saved, live = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    saved.register_buffer("s", torch.eye(3).to_sparse())
    live.register_buffer("s", torch.zeros(3, 3).to_sparse())
    repo.commit({"model": saved.state_dict()})
    repo.restore({"model": live})
    assert torch.equal(live.weight, saved.weight)
    assert torch.equal(live.s.to_dense(), torch.eye(3))  # type: ignore[operator]


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_a_lazy_module_takes_its_shape_from_the_commit(repo: Repository) -> None:
    saved, live = torch.nn.Linear(4, 2), torch.nn.LazyLinear(2)
    repo.commit({"model": saved.state_dict()})
    repo.restore({"model": live})
    assert torch.equal(live.weight, saved.weight)


class _WithExtra(torch.nn.Module):
    def __init__(self, extra: Any) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3)
        self.extra = extra

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


@pytest.mark.parametrize("extra", [{"scale": 3}, torch.arange(3)], ids=["dict", "tensor"])
def test_extra_state_comes_back_beside_tensors_in_place(repo: Repository, extra: Any) -> None:
    saved, live = _WithExtra(extra), _WithExtra(None)
    saved.norm(torch.randn(5, 3))
    repo.commit({"model": saved.state_dict()})
    pointer = live.norm.weight.data_ptr()
    repo.restore({"model": live})
    assert_same(live.extra, extra)
    assert live.norm.num_batches_tracked == 1
    assert torch.equal(live.norm.running_mean, saved.norm.running_mean)  # type: ignore[arg-type]
    assert live.norm.weight.data_ptr() == pointer


def test_an_averaged_model_comes_back_with_its_count(repo: Repository) -> None:
    model = torch.nn.Linear(3, 3)
    ema, live = torch.optim.swa_utils.AveragedModel(model), torch.optim.swa_utils.AveragedModel(torch.nn.Linear(3, 3))
    for _ in range(3):
        ema.update_parameters(model)
    repo.commit({"ema": ema.state_dict()})
    repo.restore({"ema": live})
    assert live.n_averaged == 3
    assert_same(state(live), state(ema))


def test_a_subclass_of_tensor_is_written_by_a_copy(repo: Repository) -> None:
    class Tagged(torch.Tensor):
        pass

    saved, live = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    live.weight = torch.nn.Parameter(torch.zeros(3, 3).as_subclass(Tagged))
    repo.commit({"model": saved.state_dict()})
    repo.restore({"model": live})
    assert live.weight.detach().as_subclass(torch.Tensor).equal(saved.weight)


class Overridden(torch.nn.Linear):
    """A module with a say in its loading, that keeps a number beside its tensors."""

    step = 0
    loaded = 0

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return {**super().state_dict(*args, **kwargs), "step": self.step}

    def load_state_dict(self, state_dict: Any) -> Any:  # type: ignore[override]
        self.step = state_dict.pop("step")
        self.loaded += 1
        return super().load_state_dict(state_dict)


class Inner(torch.nn.Linear):
    loaded = 0

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.loaded += 1
        super()._load_from_state_dict(*args, **kwargs)


def _hooked(register: str) -> torch.nn.Module:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    module.loaded = 0  # type: ignore[assignment]

    def hook(*args: Any) -> None:
        module.loaded += 1  # type: ignore[operator]

    getattr(module[0], register)(hook)
    return module


@pytest.mark.parametrize(
    "make",
    [
        lambda: Overridden(2, 2),
        lambda: Inner(2, 2),
        lambda: _hooked("register_load_state_dict_post_hook"),
        lambda: _hooked("register_load_state_dict_pre_hook"),
    ],
)
def test_what_a_module_does_when_it_is_loaded_is_done(repo: Repository, make: Callable[[], Any]) -> None:
    saved, live = make(), make()
    saved.step = 5
    repo.commit({"model": saved.state_dict()})
    repo.restore({"model": live})
    assert live.loaded == 1
    assert_same(dict(live.state_dict()), dict(saved.state_dict()))


def test_a_module_that_loads_in_its_own_way_takes_what_matches(repo: Repository) -> None:
    saved, live = Inner(2, 2), Inner(2, 2, bias=False)
    repo.commit({"model": saved.state_dict()})
    repo.restore({"model": live}, strict=False)
    assert live.loaded == 1
    assert torch.equal(live.weight, saved.weight)


def test_tied_weights_with_different_contents_are_refused_however_they_are_loaded(repo: Repository) -> None:
    repo.commit({"model": torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)).state_dict()})
    live = torch.nn.Sequential(Inner(2, 2), torch.nn.Linear(2, 2))
    live[1].weight = live[0].weight
    before = state(live)
    with pytest.raises(RestoreMismatchError, match="shares its memory"):
        repo.restore({"model": live})
    assert_same(state(live), before)
