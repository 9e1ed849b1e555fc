"""Whether a store at rest, after whatever befell it, keeps what was promised: by the model of what was acknowledged.

Nothing is forgiven but what the promise leaves open: of the act in flight, any stage that others may see.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import torch

import casckpt
from casckpt.errors import PrunedCommitError, ReleasedPartError, StoreNotFoundError
from tests.equality import assert_same
from tests.trials.model import Act, Model, Shown, View
from tests.trials.story import Story, copy_of, expected, export_of, settings, state

AT_REST, AS_BEFORE, DONE, ABSENT = "as acknowledged", "as before", "done", "no store yet"


def look(repo: casckpt.Repository) -> View:
    """All that it shows of its history: what refs and the reflog lead to."""
    refs = {f"{ref.kind}/{ref.name}": ref.commit for ref in repo.refs()}
    moves = [(f"{move.kind}/{move.name}", move.old, move.new) for move in reversed(repo.reflog())]
    left = [*refs.values(), *[oid for move in moves for oid in move[1:] if oid is not None]]
    commits: dict[str, Shown] = {}
    while left:
        oid = left.pop()
        if oid not in commits:
            one = repo.resolve(oid)
            commits[oid] = Shown(one.step, one.parents, one.branch, one.message, one.pruned, frozenset(one.released))
            left += one.parents
    for branch in [name.partition("/")[2] for name in refs if name.startswith("branch/")]:
        assert [one.id for one in repo.log(branch)] == _line(commits, refs[f"branch/{branch}"])
    return View(repo.current_branch, refs, moves, commits)


def _line(commits: dict[str, Shown], tip: str) -> list[str]:
    found = [tip]
    while parents := commits[found[-1]].parents:
        found += parents
    return found


def check_states(repo: casckpt.Repository, model: Model) -> None:
    """Every commit that is kept loads to exactly what was saved."""
    for step in sorted(model.reachable()):
        entry = model.commits[step]
        if not entry.pruned and not entry.released:
            assert_same(expected(model, step), repo.load(entry.id))
            continue
        try:
            repo.load(entry.id)
        except (PrunedCommitError, ReleasedPartError) as error:
            assert isinstance(error, PrunedCommitError) == entry.pruned, error
        else:
            raise AssertionError(f"step {step} was pruned or thinned, and loads")
        if not entry.pruned:
            kept = expected(model, step)
            assert_same(kept, repo.load(entry.id, paths=[f"{part}.*" for part in kept]))


def check_sound(repo: casckpt.Repository) -> None:
    """fsck has nothing to say against it, every byte read."""
    report = repo.fsck(read_data=True)
    assert not [one for one in report.findings if one.severity in ("error", "warning")], report


def settle(path: Path, model: Model) -> str:
    """Open the store, and `hold` it against the model.

    Raises:
        AssertionError: a promise was broken.
    """
    try:
        repo = casckpt.open(path, create=False)
    except StoreNotFoundError:
        assert not model.made, "there is no store any more"
        model.become(model.stages()[0])
        return ABSENT
    with repo:
        assert not {"compacting", "creating"} & {one.name for one in path.iterdir()}, "what was begun lies there still"
        said = hold(path, repo, model)
    model.open = False
    return said


def hold(path: Path, repo: casckpt.Repository, model: Model) -> str:
    """Hold an open store against the model, which becomes what is there; says what became of the act in flight."""
    doing, stages = model.doing, model.stages()
    if not model.made:
        assert doing is not None and doing.name == "open"
        assert {name: getattr(repo.store.format, name) for name in settings(model.seed)} == settings(model.seed)
    view = look(repo)
    against = [stage.differs(view) for stage in stages]
    assert "" in against, f"in {doing}: {against}"
    number = against.index("")
    stage = stages[number]
    check_states(repo, stage)
    check_sound(repo)
    _check_files(path, model, stages)
    model.become(stage)
    model.made = model.open = True
    if doing is None:
        return AT_REST
    if doing.name in ("commit", "commit behind"):
        return ("no newer", "one newer", "two newer")[number]
    return AS_BEFORE if not number else DONE if number == len(stages) - 1 else "half of it"


def _check_files(path: Path, model: Model, stages: list[Model]) -> None:
    """What is beside the store: the backup and the exported file, each old, new or (where allowed) not there."""
    doing = "" if model.doing is None else model.doing.name
    copy, exported = copy_of(path), export_of(path)
    whole = (copy / "data.mdb").exists()
    copies = [stage.copied for stage in stages]
    assert whole or None in copies or doing == "backup", "a backup is gone"
    found = None
    if whole:
        with casckpt.open(copy, create=False) as repo:
            view = look(repo)
            found = next((one for one in copies if one is not None and not one.differs(view)), None)
            assert found is not None, f"the backup holds neither of {copies}"
            check_states(repo, found)
            check_sound(repo)
    for stage in stages:
        stage.copied = found
    possible = {stage.exported for stage in stages}
    if not exported.exists():
        assert None in possible, "an exported file is gone"
        return
    held = torch.load(exported, weights_only=True)
    step = held["progress"]["step"]
    assert step in possible, f"the exported file holds step {step}, not one of {possible}"
    assert_same(state(model.seed, step), held)
    for stage in stages:
        stage.exported = step


def go_on(path: Path, model: Model, repo: casckpt.Repository | None = None) -> None:
    """The next commit works, and is durable; now and then gc and compact do too, and lose nothing.

    repo: an open handle on the store, which is used and closed.
    """
    chance = Random(f"oracle {model.seed} {model.turn}")
    story = Story(path, model, repo=repo)
    if repo is None:
        story.do(Act("open"))
    acts = [Act("commit", step=model.next)]
    if chance.random() < 0.15:
        acts.append(Act("gc"))
    if chance.random() < 0.1:
        acts.append(Act("compact"))
    for act in acts:
        story.do(act)
    story.do(Act("close"))
    with casckpt.open(path, create=False) as repo:
        differs = model.differs(look(repo))
        assert not differs, f"after {acts}: {differs}"
        if len(acts) > 1:
            check_states(repo, model)
            check_sound(repo)
        else:
            step = model.refs[f"branch/{model.head}"]
            assert_same(expected(model, step), repo.load())


def check(path: Path, model: Model) -> str:
    """`settle`, and `go_on`: the whole of it. Returns what was seen, in a few words."""
    try:
        said = settle(path, model)
        go_on(path, model)
    except Exception as error:
        raise AssertionError(f"seed {model.seed}, turn {model.turn}: {type(error).__name__}: {error}") from error
    return said


def clear(path: Path) -> None:
    """Take a store away, and what its story put beside it."""
    for one in (path, copy_of(path), path.with_name(f"{path.name}.gone")):
        shutil.rmtree(one, ignore_errors=True)
    for file in path.parent.glob(f"*{export_of(path).name}*"):
        file.unlink()
