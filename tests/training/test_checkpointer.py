"""The Checkpointer: what it takes, when it commits, what a failure does, and what it leaves behind."""

from __future__ import annotations

import gc
import math
import random
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import casckpt
from casckpt.errors import (
    CasckptError,
    InvalidRefNameError,
    LoaderError,
    PolicyError,
    RefExistsError,
    RefMovedError,
    ReleasedPartError,
    RestoreMismatchError,
    StateError,
    StoreBusyError,
    StoreClosedError,
    StoreFullError,
    StoreSettingsError,
    UnknownRevisionError,
    UnsupportedTypeError,
)
from casckpt.store.memory import MemoryStore
from casckpt.tensors.repository import Repository
from casckpt.training.due import Due, Metrics
from casckpt.training.upkeep import Upkeep
from tests.equality import assert_same
from tests.training.runs import EPOCH, LOADERS, Cursor, Numbers, Run


@pytest.fixture
def repo() -> Iterator[Repository]:
    with Repository(MemoryStore()) as made:
        yield made


def steps(repo: Repository) -> list[int | None]:
    repo.wait()
    return [commit.step for commit in repo.log()]


def counted(repo: Any, **settings: Any) -> casckpt.Checkpointer:
    return casckpt.Checkpointer(repo, data={"n": torch.zeros(1)}, **{"signals": (), **settings})


# -- when --------------------------------------------------------------------------------------------------------------


def test_a_commit_is_due_when_a_multiple_was_crossed(repo: Repository) -> None:
    with counted(repo, every_steps=10) as ckpt:
        for step in (3, 9, 11, 12, 20, 45, 49):
            ckpt.step(step)
        assert steps(repo) == [45, 20, 11]
    assert steps(repo) == [49, 45, 20, 11], "the last step is committed in the end"
    with counted(repo, every_steps=10) as ckpt:
        assert ckpt.resume() == 49
        ckpt.step(50)
        ckpt.rollback("step:20")
        ckpt.step(29)
        assert steps(repo) == [20, 11]
        ckpt.step(30)
        assert steps(repo) == [30, 20, 11]


def test_a_commit_is_due_when_so_many_seconds_passed() -> None:
    now = [0.0]
    due = Due(100, 5.0, None, "min", lambda: now[0])
    none = Metrics(None)
    assert not due.is_due(1, none)
    now[0] = 5.0
    assert due.is_due(2, none)
    due.restart(2, None)
    assert not due.is_due(3, none)
    assert due.is_due(100, none)


def test_without_a_rhythm_only_the_end_and_save_commit(repo: Repository) -> None:
    with counted(repo) as ckpt:
        ckpt.step(1)
        assert ckpt.last is None
        commit = ckpt.save(2, "by hand", metrics={"loss": torch.tensor(2.0, requires_grad=True)})
        assert (commit.step, commit.message, commit.metrics) == (2, "by hand", {"loss": 2.0})
        assert ckpt.last == commit
        ckpt.step(3)
    assert steps(repo) == [3, 2]


def test_a_monitor_commits_only_what_is_better(repo: Repository) -> None:
    with counted(repo, monitor="loss") as ckpt:
        for step, loss in enumerate((3.0, math.nan, 4.0, 3.0, 2.0, None, 5.0), 1):
            ckpt.step(step, {} if loss is None else {"loss": loss})
        ckpt.resume()
        assert ckpt.last is not None
        assert ckpt.last.step == 5
        assert repo.resolve("best:loss").step == 5, "the repository knows the mode"
    assert steps(repo) == [5, 1]
    with counted(repo, monitor="loss") as ckpt:
        ckpt.resume()
        ckpt.step(8, {"loss": 2.5})
        assert steps(repo) == [5, 1], "the best so far is remembered"
        ckpt.step(9, {"loss": 1.5})
        assert steps(repo) == [9, 5, 1]
        ckpt.rollback("step:1")
        ckpt.step(10, {"loss": 2.5})
    assert steps(repo) == [10, 1]


def test_a_monitor_waits_for_the_rhythm(repo: Repository) -> None:
    with counted(repo, monitor="acc", mode="max", every_steps=10) as ckpt:
        for step, accuracy in ((9, 0.5), (10, 0.4), (19, 0.9), (20, 0.3), (25, 0.95)):
            ckpt.step(step, {"acc": accuracy})
        assert steps(repo) == [25, 10]


def test_metrics_are_read_only_when_a_commit_is_due(repo: Repository) -> None:
    read: list[str] = []

    def metric(name: str) -> Any:
        return lambda: read.append(name) or torch.tensor(1.5)

    with counted(repo, every_steps=3) as ckpt:
        for step in (1, 2, 3):
            ckpt.step(step, {"loss": metric(f"loss-{step}"), "n": step})
    assert read == ["loss-3"]
    assert repo.resolve().metrics == {"loss": 1.5, "n": 3.0}
    read.clear()
    with counted(repo, monitor="loss") as ckpt:
        ckpt.step(4, {"loss": metric("loss"), "other": metric("other")})
        ckpt.step(5, {"loss": metric("loss"), "other": metric("other")})
        assert read == ["loss", "other", "loss"], "the monitored one each time, and each only once"


@pytest.mark.parametrize("value", ["text", torch.zeros(2), lambda: None], ids=["text", "tensor", "function"])
def test_a_metric_that_is_no_number_is_named(repo: Repository, value: Any) -> None:
    with counted(repo) as ckpt:
        with pytest.raises(StateError, match=r"at metrics\.loss: this metric is no number"):
            ckpt.save(1, metrics={"loss": value})
        assert steps(repo) == []
        ckpt.save(1)


@pytest.mark.parametrize(
    "settings",
    [{"every_steps": 0}, {"every_steps": 1.5}, {"every_seconds": 0}, {"mode": "best"}, {"on_error": "ignore"}],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(repo: Repository, settings: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match=f"{next(iter(settings))}="):
        counted(repo, **settings)


# -- what --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["progress", "rng", "ranks"])
def test_reserved_names_are_refused(repo: Repository, name: str) -> None:
    with pytest.raises(StateError, match=f"at {name}: '{name}' is the name of what a Checkpointer saves by itself"):
        casckpt.Checkpointer(repo, **{name: {}})


def test_an_object_without_a_state_is_refused_by_its_name(repo: Repository) -> None:
    with pytest.raises(UnsupportedTypeError, match="at sampler: a object has no state_dict and load_state_dict"):
        casckpt.Checkpointer(repo, sampler=object())


def test_states_of_every_kind_come_back_in_place(repo: Repository) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    model = torch.nn.Linear(2, 2)
    ema = torch.optim.swa_utils.AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.5)
    plain = {"losses": [1.0], "table": torch.zeros(3)}
    table = plain["table"]

    def train() -> None:
        optimizer.zero_grad()
        scaler.scale(model(torch.ones(1, 2)).sum()).backward()
        scaler.step(optimizer)
        scaler.update(None if scaler.get_scale() < 32 else 4.0)
        ema.update_parameters(model)
        plain["losses"].append(2.0)  # type: ignore[union-attr]
        table.add_(1)

    def now() -> dict[str, Any]:
        return {
            "model": [held.clone() for held in model.state_dict().values()],
            "ema": [held.clone() for held in ema.state_dict().values()],
            "scaler": scaler.state_dict(),
            "plain": {"losses": list(plain["losses"]), "table": table.clone()},
        }

    with casckpt.Checkpointer(
        repo, model=model, optimizer=optimizer, scaler=scaler, ema=ema, plain=plain, nothing=None, signals=()
    ) as ckpt:
        train()
        expected = now()
        ckpt.save(1)
        train()
        assert ckpt.rollback("HEAD") == 1
        assert_same(now(), expected)
        assert plain["table"] is table
        train()
        ckpt.save(2)
    state = repo.load()
    assert list(state) == ["model", "optimizer", "scaler", "ema", "plain", "progress", "rng"]
    assert state["progress"]["step"] == 2
    assert {"python", "numpy", "torch"} <= set(state["rng"])


def test_commits_do_not_depend_on_compiling_or_wrapping(repo: Repository) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    with casckpt.Checkpointer(repo, model=model, signals=()) as ckpt:
        plain = ckpt.save(0).tree
    with casckpt.Checkpointer(repo, model=torch.nn.DataParallel(model), signals=()) as ckpt:
        assert ckpt.save(0).tree == plain
    compiled = torch.compile(model, backend="eager")
    with casckpt.Checkpointer(repo, model=compiled, signals=()) as ckpt:
        ckpt.save(0)
        expected = {key: held.clone() for key, held in model.state_dict().items()}
        assert_same(dict(repo.load()["model"]), expected)
        assert repo.load()["model"]._metadata.keys() == model.state_dict()._metadata.keys()  # type: ignore[attr-defined]
        compiled(torch.randn(3, 2))
        ckpt.rollback("HEAD")
        assert_same(dict(model.state_dict()), expected)


def test_generators_come_back_without_a_loader(repo: Repository) -> None:
    with counted(repo) as ckpt:
        ckpt.save(1)
        expected = torch.rand(3)
        ckpt.resume()
        assert torch.equal(torch.rand(3), expected)
        ckpt.rollback("HEAD")
        assert torch.equal(torch.rand(3), expected)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("loader", LOADERS)
def test_a_commit_draws_nothing(repo: Repository, loader: str) -> None:
    with Run(loader).checkpointer(repo) as ckpt:
        for _ in range(2):
            before = torch.get_rng_state(), random.getstate()
            ckpt.save(0)
            assert torch.equal(torch.get_rng_state(), before[0])
            assert random.getstate() == before[1]
            next(ckpt.batches())


def test_each_commit_carries_the_meta(repo: Repository) -> None:
    with counted(repo, meta={"git": "abc"}) as ckpt:
        assert ckpt.save(1).meta == {"git": "abc"}


# -- loaders -----------------------------------------------------------------------------------------------------------


def test_a_plain_loader_that_is_not_gone_through_by_batches_is_refused_when_a_commit_is_due(repo: Repository) -> None:
    loader = DataLoader(Numbers(), batch_size=4)
    ckpt = counted(repo, dataloader=loader, every_steps=2, on_error="warn")
    ckpt.save(0)
    for _ in loader:
        ckpt.step(1)
        with pytest.raises(LoaderError, match=r"no batch was taken from batches\(\) for step 2"):
            ckpt.step(2)
        with pytest.raises(LoaderError):
            ckpt.save(3)
        break
    assert steps(repo) == [0]
    next(ckpt.batches())
    ckpt.step(2)
    assert steps(repo) == [2, 0]


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("loader", ["cursor", "stateful"])
def test_a_loader_with_a_state_that_is_not_gone_through_by_batches_is_refused(repo: Repository, loader: str) -> None:
    """Otherwise each commit after a resume would hold the position that was resumed from."""
    with Run(loader).checkpointer(repo) as ckpt:
        next(ckpt.batches())
        ckpt.step(1)
    with (run := Run(loader)).checkpointer(repo) as ckpt:
        assert ckpt.resume() == 1
        ckpt.save(1)
        next(iter(run.data))
        with pytest.raises(LoaderError, match=r"no batch was taken from batches\(\) for step 2") as caught:
            ckpt.step(2)
        assert caught.value.remedy == "iterate over ckpt.batches() instead of the loader, or leave dataloader= out"
        with pytest.raises(LoaderError):
            ckpt.save(2)
        ckpt.resume()
    assert steps(repo) == [1, 1]


@pytest.mark.parametrize(
    ("loader", "problem"),
    [
        (iter([1]), "a list_iterator cannot be gone through again"),
        (5, "a int cannot be gone through again"),
        (DataLoader(Numbers(), num_workers=1, in_order=False), "in_order=False"),
    ],
    ids=["iterator", "number", "unordered"],
)
def test_a_loader_whose_position_cannot_be_known_is_refused(repo: Repository, loader: Any, problem: str) -> None:
    with pytest.raises(LoaderError, match=problem):
        counted(repo, dataloader=loader)


def test_batches_need_a_loader(repo: Repository) -> None:
    with pytest.raises(LoaderError, match="no dataloader was given"):
        counted(repo).batches()


def test_a_loader_of_another_kind_is_refused(repo: Repository) -> None:
    with Run("global").checkpointer(repo) as ckpt:
        next(ckpt.batches())
        ckpt.step(1)
    with counted(repo, branch=None, every_steps=1) as ckpt:
        pass
    with Run("cursor").checkpointer(repo) as ckpt:
        with pytest.raises(RestoreMismatchError, match="holds a number of batches, and the loader given here needs a"):
            ckpt.resume()
        assert ckpt.resume(only=["model", "optimizer", "progress"]) == 1


@pytest.mark.parametrize("loader", ["global", "cursor"])
def test_a_commit_without_a_position_is_resumed_where_that_is_not_strict(repo: Repository, loader: str) -> None:
    with counted(repo) as ckpt:
        ckpt.save(1)
        expected = torch.rand(3)
    ckpt = counted(repo, dataloader=LOADERS[loader]())
    with pytest.raises(RestoreMismatchError, match="holds no position of a loader, and the loader given here needs a"):
        ckpt.resume()
    assert ckpt.resume(strict=False) == 1
    assert torch.equal(torch.rand(3), expected)
    assert len(list(ckpt.batches())) == EPOCH, "the loader stays at its beginning"
    assert ckpt.save(2).step == 2


def test_a_loader_that_refuses_its_state_is_named(repo: Repository) -> None:
    with (run := Run("cursor")).checkpointer(repo) as ckpt:
        next(ckpt.batches())
        ckpt.step(1)
        run.data.load_state_dict = lambda state: state["other"]
        with pytest.raises(RestoreMismatchError, match=r"at dataloader: its load_state_dict refused .*KeyError"):
            ckpt.resume()


def shuffled(generator: Any = None) -> DataLoader[Any]:
    """A loader whose own generator, if there is one, is of any kind."""
    loader = DataLoader(Numbers(), batch_size=4)
    if generator is not None:
        loader.shuffler = generator
    return loader


@pytest.mark.parametrize("batches", [0, 1])
@pytest.mark.parametrize("other", [None, random.Random(1)], ids=["fewer", "another type"])
def test_a_loader_with_other_generators_is_refused_before_anything_is_restored(
    repo: Repository, batches: int, other: Any
) -> None:
    with counted(repo, dataloader=shuffled(torch.Generator())) as ckpt:
        for _ in range(batches):
            next(ckpt.batches())
        ckpt.save(batches)
    held = {"n": torch.ones(1)}
    before = None if other is None else other.getstate()
    ckpt = casckpt.Checkpointer(repo, data=held, dataloader=shuffled(other), signals=())
    where = r"rng\.epoch_start\.loader" if batches else r"rng\.loader"
    problem = "were saved, and it has 0" if other is None else "does not take the saved state"
    with pytest.raises(RestoreMismatchError, match=rf"at {where}.*{problem}"):
        ckpt.resume()
    assert held["n"] == 1
    assert other is None or other.getstate() == before
    assert ckpt.resume(only=["data"]) == 0
    assert held["n"] == 0


def test_a_loader_with_a_state_and_other_generators_is_refused_before_anything_is_restored(repo: Repository) -> None:
    with Run("cursor").checkpointer(repo) as ckpt:
        next(ckpt.batches())
        ckpt.step(1)
    with (run := Run("cursor", seed=1)).checkpointer(repo) as ckpt:
        run.data.shuffler = random.Random(1)
        before = run.weights()
        with pytest.raises(RestoreMismatchError, match=r"at rng\.loader.*0 generators .* were saved, and it has 1"):
            ckpt.resume()
        assert_same(run.weights(), before)
        assert run.data.at == 0


def test_generators_that_a_loader_makes_when_it_is_iterated_do_not_have_to_be_there_before(repo: Repository) -> None:
    class Late(Cursor):
        def __iter__(self) -> Iterator[torch.Tensor]:
            self.shuffler = random.Random(1)
            return super().__iter__()

    with counted(repo, dataloader=(first := Late())) as ckpt:
        next(ckpt.batches())
        first.shuffler.random()
        ckpt.save(1)
        expected = first.shuffler.random()
    with counted(repo, dataloader=(again := Late())) as ckpt:
        assert ckpt.resume() == 1
        next(ckpt.batches())
        assert again.shuffler.random() == expected


# -- going back --------------------------------------------------------------------------------------------------------


def test_an_empty_store_resumes_at_step_0(repo: Repository) -> None:
    with counted(repo) as ckpt:
        assert ckpt.resume() == 0
        assert ckpt.resume(None) == 0
        assert ckpt.epoch == 0
        with pytest.raises(UnknownRevisionError):
            ckpt.resume("v1")


def test_resume_names_what_is_not_there(repo: Repository) -> None:
    data, more = {"n": torch.ones(1)}, {"m": 0}
    with casckpt.Checkpointer(repo, data=data, signals=()) as ckpt:
        ckpt.save(3)
    data["n"].zero_()
    ckpt = casckpt.Checkpointer(repo, data=data, more=more, signals=())
    with pytest.raises(RestoreMismatchError, match="at absent: this Checkpointer has no such state; it has data, more"):
        ckpt.resume(only=["absent"])
    with pytest.raises(RestoreMismatchError, match=r"at more: commit .* has no more") as caught:
        ckpt.resume()
    assert caught.value.path == "more"
    assert data["n"] == 0
    assert ckpt.resume(strict=False) == 3
    assert data["n"] == 1
    assert more == {"m": 0}


def test_a_commit_that_was_not_made_by_a_checkpointer_gives_its_parts(repo: Repository) -> None:
    repo.commit({"data": {"n": torch.ones(1)}}, step=7)
    data = {"n": torch.zeros(1)}
    with casckpt.Checkpointer(repo, data=data, dataloader=[1, 2], signals=()) as ckpt:
        with pytest.raises(RestoreMismatchError, match="has no progress, rng"):
            ckpt.resume()
        assert data["n"] == 0
        assert ckpt.resume(strict=False) == 0
        assert data["n"] == 1
    repo.commit({"data": {"n": torch.ones(1)}, "progress": {"step": "x"}, "rng": {}})
    with pytest.raises(RestoreMismatchError, match="at progress: this is not what a Checkpointer saves there"):
        counted(repo).resume()
    good = {"step": 1, "epoch": 0, "best": None, "loader": "batches", "batches": 1, "reuses": False}
    repo.commit({"data": {"n": torch.ones(1)}, "progress": good, "rng": {}})
    with pytest.raises(RestoreMismatchError, match=r"at rng\.python: the state of this generator was not saved"):
        counted(repo).resume()
    state = torch.get_rng_state()
    generators = casckpt.training.rng.capture()
    repo.commit({"data": {"n": torch.ones(1)}, "progress": good, "rng": {**generators, "torch": 5}})
    data["n"].zero_()
    with pytest.raises(RestoreMismatchError, match=r"at rng\.torch: the generator does not take the saved state"):
        casckpt.Checkpointer(repo, data=data, signals=()).resume()
    assert data["n"] == 0, "generators are tried before anything is restored"
    assert torch.equal(torch.get_rng_state(), state)
    repo.commit({"data": {"n": torch.ones(1)}, "progress": good, "rng": generators})
    with pytest.raises(RestoreMismatchError, match=r"at rng\.epoch_start: 1 batches were delivered"):
        counted(repo, dataloader=[1, 2]).resume()
    repo.commit(5)
    with pytest.raises(RestoreMismatchError, match="has no data, progress, rng"):
        counted(repo).resume()


def test_a_released_part_is_named_and_the_rest_resumes(repo: Repository) -> None:
    keep = casckpt.Keep(parts={"optimizer": casckpt.Keep(last=1)})
    with (run := Run("list")).checkpointer(repo, keep=keep) as ckpt:
        run.go(ckpt, 0, 3)
        with pytest.raises(ReleasedPartError, match="optimizer"):
            ckpt.resume("step:2")
        assert ckpt.resume("step:2", only=["model", "progress"]) == 2


def test_a_rollback_that_does_not_fit_leaves_the_branch_where_it_was(repo: Repository) -> None:
    data = {"n": torch.zeros(1)}
    with casckpt.Checkpointer(repo, data=data, signals=()) as ckpt:
        ckpt.save(1)
        tip = ckpt.save(2)
        data["n"] = torch.zeros(2)
        with pytest.raises(RestoreMismatchError):
            ckpt.rollback("HEAD~1")
        assert repo.resolve().id == tip.id
        assert ckpt.last == tip
        ckpt.save(3)
    assert steps(repo) == [3, 2, 1]


def test_a_rollback_of_a_branch_that_somebody_else_moved_restores_nothing(repo: Repository) -> None:
    data = {"n": torch.zeros(1)}
    with casckpt.Checkpointer(repo, data=data, signals=()) as ckpt:
        ckpt.save(1)
        Repository(repo.store).commit({"other": 1})
        data["n"] += 1
        with pytest.raises(RefMovedError):
            ckpt.rollback("HEAD~1")
        assert data["n"] == 1


def test_a_rollback_says_so_when_the_branch_cannot_be_moved_back(
    repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"n": torch.zeros(1)}
    with casckpt.Checkpointer(repo, data=data, signals=()) as ckpt:
        ckpt.save(1)
        tip = ckpt.save(2).id
        data["n"] = torch.zeros(2)
        rollback = repo.rollback

        def only_there(revision: str) -> Any:
            if revision == tip:
                raise CasckptError("no way back")
            return rollback(revision)

        monkeypatch.setattr(repo, "rollback", only_there)
        with pytest.raises(RestoreMismatchError) as caught:
            ckpt.rollback("HEAD~1")
        assert "no way back" in caught.value.__notes__[0]


# -- failures, tags, the end -------------------------------------------------------------------------------------------


def _full(*_: Any, **__: Any) -> Any:
    raise StoreFullError("no room", needed=1)


def test_a_failed_commit_raises_or_warns_and_is_tried_again_when_the_next_one_is_due(
    repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    for on_error in ("raise", "warn"):
        ckpt = counted(repo, every_steps=2, on_error=on_error, monitor="loss")
        with monkeypatch.context() as patch:
            patch.setattr(repo, "commit_async", _full)
            if on_error == "raise":
                with pytest.raises(StoreFullError):
                    ckpt.step(2, {"loss": 1.0})
            else:
                with pytest.warns(RuntimeWarning, match="step 2 was not saved: StoreFullError: no room") as caught:
                    ckpt.step(2, {"loss": 1.0})
                assert caught[0].filename == __file__
            assert ckpt.last is None
            ckpt.step(3, {"loss": 0.5})  # not due: nothing is tried
        ckpt.step(4, {"loss": 1.5})
        ckpt.wait()
        assert ckpt.last is not None, "what was not saved does not count as the best"
    assert steps(repo) == [4, 4]


def test_what_fails_after_the_commit_does_not_undo_it(repo: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    with counted(repo, every_steps=1, on_error="warn", keep=casckpt.Keep(last=1)) as ckpt:
        monkeypatch.setattr(repo, "prune", _full)
        ckpt.step(1)
        with pytest.warns(RuntimeWarning, match="old commits could not be cleared away: StoreFullError") as caught:
            ckpt.wait()
        assert caught[0].filename == __file__
        assert ckpt.last is not None
        monkeypatch.undo()
    assert steps(repo) == [1]


def test_tags_are_checked_before_anything_is_committed(repo: Repository) -> None:
    with counted(repo) as ckpt:
        commit = ckpt.save(1, tag="v1")
        assert repo.resolve("v1").id == commit.id
        with pytest.raises(RefExistsError):
            ckpt.save(2, tag="v1")
        with pytest.raises(InvalidRefNameError):
            ckpt.save(2, tag="a~1")
        assert steps(repo) == [1]


def test_the_end_of_the_block_commits_unless_it_is_an_exception(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), counted(tmp_path / "run") as ckpt:
        ckpt.step(1)
        raise ZeroDivisionError
    with counted(tmp_path / "run", every_steps=1) as ckpt:
        assert ckpt.resume() == 0
        ckpt.step(5)
        ckpt.wait()
        last = ckpt.last
    ckpt.close()
    with pytest.raises(StoreClosedError):
        ckpt.repo.resolve()
    with casckpt.open(tmp_path / "run") as repo:
        assert [commit.id for commit in repo.log()] == [last.id if last else None], "it is not committed twice"


def test_a_repository_that_was_handed_in_stays_open_and_takes_no_settings(repo: Repository) -> None:
    with counted(repo):
        pass
    assert list(repo.log()) == []
    with pytest.raises(StoreSettingsError, match="branch, hash was given beside a repository"):
        counted(repo, branch="b", hash="blake3")


def test_a_branch_may_be_named(tmp_path: Path) -> None:
    with counted(tmp_path / "run", branch="try", hash="blake3", chunk_size=4096, codec="none") as ckpt:
        assert ckpt.save(1).branch == "try"
        assert ckpt.repo.store.format.hash == "blake3"


def test_a_step_is_a_whole_number(repo: Repository) -> None:
    with counted(repo) as ckpt, pytest.raises(TypeError):
        ckpt.step(1.5)  # type: ignore[arg-type]


# -- upkeep ------------------------------------------------------------------------------------------------------------


def test_old_commits_are_pruned_and_collected_as_training_goes_on(repo: Repository) -> None:
    data = {"n": torch.zeros(10_000)}
    keep = casckpt.Keep(last=2, every_steps=4)
    with casckpt.Checkpointer(repo, data=data, every_steps=1, keep=keep, signals=()) as ckpt:
        ckpt._upkeep._spent = -1e9
        for step in range(1, 11):
            data["n"].add_(1)
            ckpt.step(step)
        ckpt.wait()
        kept = [commit.step for commit in repo.log() if not commit.pruned]
        assert kept == [10, 9, 8, 4, 1]
        assert repo.gc(dry_run=True).chunks == 0


def test_gc_stays_within_its_share_of_the_time(repo: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    collected: list[float] = []

    real = repo.gc

    def gc(**_: Any) -> Any:
        collected.append(now[0])
        now[0] += 1.0
        return real(dry_run=True)

    monkeypatch.setattr(repo, "gc", gc)
    upkeep = Upkeep(repo, casckpt.Keep(last=1), lambda: now[0])
    for _ in range(30):
        repo.commit({"n": now[0]})
        upkeep.run()
        now[0] += 1.0
    assert collected == [1.0, 10.0, 20.0, 30.0]


def test_a_gc_elsewhere_is_no_error_and_is_made_up_for(repo: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    upkeep = Upkeep(repo, casckpt.Keep(last=1), lambda: 0.0)
    for n in range(2):
        repo.commit({"n": torch.full((9000,), n)})
    with repo.store.maintenance():
        with pytest.raises(StoreBusyError):
            repo.gc()
        upkeep.run()
    assert repo.gc(dry_run=True).chunks > 0
    upkeep.run()
    assert repo.gc(dry_run=True).chunks == 0


def test_nothing_warns(repo: Repository) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with (run := Run("own")).checkpointer(repo) as ckpt:
            run.go(ckpt, ckpt.resume(), EPOCH)
            ckpt.rollback("HEAD~1")


def test_a_checkpointer_and_its_loader_are_gone_with_the_last_reference(repo: Repository) -> None:
    """In a cycle, a loader's workers would stay until gc comes by, and torch then waits five seconds for each."""
    gc.disable()
    try:
        ckpt = casckpt.Checkpointer(repo, model=torch.nn.Linear(2, 2), dataloader=DataLoader(Numbers()), every_steps=1)
        for step, _ in enumerate(ckpt.batches(), 1):
            ckpt.step(step)
        held = weakref.ref(ckpt)
        del ckpt
        assert held() is None
    finally:
        gc.enable()
