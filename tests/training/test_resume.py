"""After a resume, everything goes on as if nothing had happened: to the last bit, for every kind of loader."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from casckpt.store.memory import MemoryStore
from casckpt.tensors.repository import Repository
from tests.training.runs import EPOCH, LOADERS, Run, seed_all, uninterrupted

# torchdata asks torch for every one of its attributes, a deprecated one among them
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")

_EPOCHS = {"unbatched": 22, "batch-sampler": 5}


@pytest.fixture
def repo() -> Iterator[Repository]:
    with Repository(MemoryStore()) as made:
        yield made


def same_weights(one: Run, other: Run) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.weights().values(), other.weights().values(), strict=True))


@pytest.mark.parametrize("loader", LOADERS)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(repo: Repository, loader: str) -> None:
    """Resumed in the middle of the first epoch, after its last batch, and in the middle of the third one."""
    epoch = _EPOCHS.get(loader, EPOCH)
    steps = 2 * epoch + 3
    expected = uninterrupted(loader, steps)
    first = Run(loader)
    with first.checkpointer(repo) as ckpt:
        first.go(ckpt, ckpt.resume(), steps)
    assert first.seen == expected.seen, "commits change nothing"
    assert same_weights(first, expected)
    for stop in (2, epoch, 2 * epoch + 1):
        again = Run(loader, seed=99)
        with again.checkpointer(repo, every_steps=1000) as ckpt:
            assert ckpt.resume(f"step:{stop}") == stop
            seed_all(1234)  # what is drawn between resume() and the first batch makes no difference
            again.go(ckpt, stop, steps)
        assert again.seen == expected.seen[stop:], f"resumed at {stop}"
        assert same_weights(again, expected)


@pytest.mark.parametrize("loader", LOADERS)
def test_a_run_resumed_between_epochs_is_the_uninterrupted_one(repo: Repository, loader: str) -> None:
    epoch = _EPOCHS.get(loader, EPOCH)
    expected = uninterrupted(loader, 3 * epoch)
    first = Run(loader)
    with first.checkpointer(repo, every_steps=1000) as ckpt:
        ckpt.save(0, tag="epoch-0")
        step = 0
        for number in (1, 2, 3):
            for batch in ckpt.batches():
                first.train(batch, ckpt.epoch)
                step += 1
            ckpt.save(step, tag=f"epoch-{number}")
            assert ckpt.epoch == number
    assert first.seen == expected.seen, "commits change nothing"
    for number in (0, 2):
        again = Run(loader, seed=99)
        with again.checkpointer(repo, every_steps=1000) as ckpt:
            assert ckpt.resume(f"epoch-{number}") == number * epoch
            assert ckpt.epoch == number
            seed_all(1234)
            again.go(ckpt, number * epoch, 3 * epoch)
        assert again.seen == expected.seen[number * epoch :], f"resumed before epoch {number}"


@pytest.mark.parametrize("loader", ["global", "own", "own-noise", "persistent-2", "stateful", "cursor"])
def test_a_rollback_in_the_middle_of_a_loop_goes_on_after_the_commit(repo: Repository, loader: str) -> None:
    steps = 2 * EPOCH + 3
    expected = uninterrupted(loader, steps)
    run = Run(loader)
    with run.checkpointer(repo) as ckpt:
        step = ckpt.resume()
        rolled = {5: 2, EPOCH + 3: EPOCH - 1, EPOCH + 5: EPOCH, 2 * EPOCH + 2: EPOCH + 1}
        while step < steps:
            for batch in ckpt.batches():
                loss = run.train(batch, ckpt.epoch)
                step += 1
                ckpt.step(step, metrics={"loss": loss})
                if step in rolled:
                    back = rolled.pop(step)
                    step = ckpt.rollback(f"step:{back}")
                    assert step == back
                    assert repo.resolve().step == back == (ckpt.last.step if ckpt.last else None)
                    del run.seen[step:]
                if step >= steps:
                    break
    assert not rolled
    assert run.seen == expected.seen
    assert same_weights(run, expected)


@pytest.mark.parametrize("loader", ["global", "persistent-2", "stateful"])
def test_a_rollback_between_epochs_and_before_the_first_batch(repo: Repository, loader: str) -> None:
    expected = uninterrupted(loader, EPOCH + 2)
    run = Run(loader)
    with run.checkpointer(repo) as ckpt:
        ckpt.save(0, tag="start")
        run.go(ckpt, 0, EPOCH + 2)
        assert ckpt.rollback("start") == 0
        assert ckpt.rollback("main@{1}~3") == EPOCH - 1, "a rollback may follow another one"
        assert ckpt.rollback("start") == 0
        assert ckpt.epoch == 0
        assert ckpt.save(0).step == 0, "and the place may be committed again"
        run.seen.clear()
        run.go(ckpt, 0, EPOCH + 2)
    assert run.seen == expected.seen


@pytest.mark.parametrize("loader", ["global", "global-2", "stateful"])
def test_what_was_resumed_can_be_committed_before_anything_else_happens(repo: Repository, loader: str) -> None:
    expected = uninterrupted(loader, EPOCH + 2)
    with (first := Run(loader)).checkpointer(repo) as ckpt:
        first.go(ckpt, 0, 4)
    with Run(loader, seed=5).checkpointer(repo) as ckpt:
        ckpt.resume()
        seed_all(77)
        ckpt.save(4, "again")
    again = Run(loader, seed=6)
    with again.checkpointer(repo) as ckpt:
        again.go(ckpt, ckpt.resume(), EPOCH + 2)
    assert again.seen == expected.seen[4:]


def test_an_epoch_that_was_left_by_break_goes_on(repo: Repository) -> None:
    expected = uninterrupted("global", EPOCH + 2)
    run = Run("global")
    with run.checkpointer(repo) as ckpt:
        for until in (1, 3, EPOCH, EPOCH + 2):
            run.go(ckpt, len(run.seen), until)
    assert run.seen == expected.seen


def test_the_epoch_goes_on_in_its_order_when_the_number_of_workers_changes(repo: Repository) -> None:
    expected = uninterrupted("own", EPOCH)
    with (first := Run("own")).checkpointer(repo) as ckpt:
        first.go(ckpt, 0, 4)
    for loader in ("own-2", "persistent-own-2"):
        again = Run(loader, seed=8)
        with again.checkpointer(repo, every_steps=1000) as ckpt:
            again.go(ckpt, ckpt.resume("step:4"), EPOCH)
        assert [batch for _, batch, *_ in again.seen] == [batch for _, batch, *_ in expected.seen[4:]]


def test_a_resume_after_every_batch_of_an_epoch_leaves_nothing_of_it(repo: Repository) -> None:
    with (first := Run("global")).checkpointer(repo) as ckpt:
        first.go(ckpt, 0, EPOCH)
        assert ckpt.epoch == 0, "the epoch ends when the next batch is asked for"
    with Run("global").checkpointer(repo, every_steps=1000) as ckpt:
        assert ckpt.resume() == EPOCH
        assert list(ckpt.batches()) == []
        assert ckpt.epoch == 1
        assert len(list(ckpt.batches())) == EPOCH


def test_the_rest_of_a_batch_is_not_needed_for_the_weights_alone(repo: Repository) -> None:
    with (first := Run("global")).checkpointer(repo) as ckpt:
        first.go(ckpt, 0, 4)
    again = Run("global", seed=5)
    with again.checkpointer(repo) as ckpt:
        before = torch.get_rng_state()
        assert ckpt.resume(only=["model"]) == 0, "progress was not asked for"
        assert torch.equal(torch.get_rng_state(), before)
        assert same_weights(again, first)
        assert not again.optimizer.state
        assert ckpt.resume(only="progress") == 4
        assert len(list(ckpt.batches())) == EPOCH, "the loader stays at its beginning"


def test_the_place_in_the_loader_can_come_back_without_the_generators(repo: Repository) -> None:
    with (first := Run("own")).checkpointer(repo) as ckpt:
        first.go(ckpt, 0, 4)
    expected = uninterrupted("own", EPOCH)
    again = Run("own", seed=5)
    with again.checkpointer(repo) as ckpt:
        ckpt.resume(only=["dataloader"])
        before = torch.get_rng_state()
        rest = [batch.tolist() for batch in ckpt.batches()]
        assert rest == [batch for _, batch, *_ in expected.seen[4:]]
        assert torch.equal(torch.get_rng_state(), before)


def test_a_compiled_model_resumes_as_it_was(repo: Repository) -> None:
    """In a new process before it is compiled, and beside one that was compiled only later."""
    expected = uninterrupted("own", EPOCH + 3)
    for number, compiles in enumerate((True, False, True)):
        run = Run("own", seed=number)
        plain = run.model
        if compiles:
            run.model = torch.compile(plain, backend="eager")  # type: ignore[assignment]
        with run.checkpointer(repo) as ckpt:
            step = ckpt.resume()
            run.go(ckpt, step, min(step + 3, EPOCH + 3))
        run.model = plain
        assert run.seen == expected.seen[step : step + 3]
    assert same_weights(run, expected)
