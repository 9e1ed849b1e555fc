"""Types that a program registers: only they come back as classes of that program, and by the name given."""

from __future__ import annotations

import abc
import dataclasses
import enum
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch

from casckpt.errors import RegistrationError, UnsupportedTypeError
from casckpt.objects.paths import Globs, select
from casckpt.tensors import codecs
from casckpt.tensors.codecs import register
from casckpt.tensors.flatten import flatten
from tests.equality import assert_same
from tests.tensors.dict_store import DictStore, round_trip


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """Whatever a test registers is gone after it."""
    by_type, by_name = dict(codecs._by_type), dict(codecs._by_name)
    yield
    for table, before in ((codecs._by_type, by_type), (codecs._by_name, by_name)):
        table.clear()
        table.update(before)  # type: ignore[arg-type]


class Phase(enum.Enum):
    WARM = 1
    COLD = "c"
    ALSO_WARM = 1  # noqa: PIE796  an alias is what this is about


class Level(enum.IntEnum):
    LOW = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    lr: float
    weight: Any = None
    made: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.made.append("post-init")


@dataclasses.dataclass
class Open:
    a: int


class Pair(NamedTuple):
    left: Any
    right: Any


class Meter:
    def __init__(self, total: Any) -> None:
        self.total = total


def test_enums_dataclasses_and_named_tuples_come_back_once_registered() -> None:
    for cls in (Phase, Level, Access, Config, Pair):
        register(cls)
    weight = torch.ones(2)
    state = {
        "phase": [Phase.WARM, Phase.COLD, Phase.ALSO_WARM, Level.LOW, Access.READ | Access.WRITE, Access(0)],
        "config": Config(0.1, weight),
        "pair": Pair(weight, {Phase.COLD: 1}),
    }
    loaded: Any = round_trip(state)
    assert_same(state, loaded)
    assert loaded["phase"][0] is Phase.WARM
    assert type(loaded["phase"][3]) is Level


def test_a_dataclass_comes_back_as_it_was_without_its_init_being_called() -> None:
    register(Config)
    config = Config(0.1)
    assert config.made == ["post-init"]
    loaded: Any = round_trip(config)
    assert loaded.made == ["post-init"]


def test_a_class_with_functions_of_its_own_comes_back_tensors_and_all() -> None:
    register(Meter, "meter", encode=lambda meter: {"total": meter.total}, decode=lambda state: Meter(state["total"]))
    loaded: Any = round_trip({"m": Meter(torch.arange(3000))})
    assert type(loaded["m"]) is Meter
    assert torch.equal(loaded["m"].total, torch.arange(3000))


def test_a_dataclass_is_taken_whole_or_not_at_all() -> None:
    register(Config)
    store = DictStore()
    root = store.save({"config": Config(0.1), "other": 1})
    loaded: Any = store.inflate(select(store.fetch(root), Globs(["config.lr"]), store.fetch))
    assert list(loaded) == ["config"]
    assert_same(loaded["config"], Config(0.1))


def test_register_is_a_decorator_and_may_be_repeated() -> None:
    @register
    @dataclasses.dataclass
    class Local:
        a: int

    assert register(register(Local)) is Local
    assert_same(Local(1), round_trip(Local(1)))


def test_a_class_defined_again_takes_the_place_of_the_old_one() -> None:
    def define() -> Any:
        @register
        @dataclasses.dataclass
        class Again:
            a: int

        return Again

    old, new = define(), define()
    assert type(round_trip(old(1))) is new


@pytest.mark.parametrize("cls", [Phase, Config, Level, Access, Open])
def test_what_is_not_registered_is_refused_with_the_line_that_registers_it(cls: Any) -> None:
    item = next(iter(cls)) if issubclass(cls, enum.Enum) else cls(1)
    with pytest.raises(UnsupportedTypeError, match=rf"^at a\.0: .*register\({cls.__name__}\)"):
        flatten({"a": [item]})


def test_loading_a_type_that_is_not_registered_here_names_it_and_where() -> None:
    register(Config, "my-config")
    store = DictStore()
    root = store.save({"run": {"config": Config(1.0)}})
    del codecs._by_name["user:my-config"], codecs._by_type[Config]
    with pytest.raises(UnsupportedTypeError, match=r"^at run\.config: .*'my-config'.*name='my-config'"):
        store.load(root)


def test_a_class_that_changed_since_is_not_filled_in() -> None:
    store = DictStore()
    for cls in (Phase, Access, Open, Pair):
        register(cls, cls.__name__)
    roots = [store.save({"x": item}) for item in (Phase.COLD, Access.WRITE, Open(1), Pair(1, 2))]

    def replace(old: type, new: type) -> None:
        new.__module__, new.__qualname__ = old.__module__, old.__qualname__
        register(new, old.__name__)

    replace(Phase, enum.Enum("Phase", ["WARM"]))  # type: ignore[arg-type]
    replace(Access, enum.Flag("Access", ["READ"]))  # type: ignore[arg-type]
    replace(Open, dataclasses.make_dataclass("Open", ["a", ("b", int, 3)]))
    replace(Pair, NamedTuple("Pair", [("left", int), ("middle", int)]))
    for root in roots:
        with pytest.raises(UnsupportedTypeError, match=r"^at x: "):
            store.load(root)


def test_attributes_that_are_no_fields_are_refused_rather_than_lost() -> None:
    register(Open)
    item = Open(1)
    item.extra = 2  # type: ignore[attr-defined]
    with pytest.raises(UnsupportedTypeError, match=r"^at x: .*extra"):
        flatten({"x": item})
    del item.extra, item.a  # type: ignore[attr-defined]
    with pytest.raises(UnsupportedTypeError, match=r"^at x: .*: a"):
        flatten({"x": item})


def test_registrations_that_could_not_work_are_refused() -> None:
    class Other(enum.Enum):
        A = 1

    register(Phase, "taken")
    with pytest.raises(RegistrationError, match=r"'taken' is taken by .*Phase"):
        register(Other, "taken")
    for cls in (dict, int, torch.Tensor, torch.nn.Parameter, torch.Size, complex):
        with pytest.raises(RegistrationError, match="supported already"):
            register(cls)
    with pytest.raises(RegistrationError, match="both, or neither"):
        register(Meter, encode=vars)
    with pytest.raises(RegistrationError, match="encode="):
        register(Meter)
    with pytest.raises(RegistrationError, match="not a class"):
        register(Meter(1))  # type: ignore[type-var]


def test_a_dataclass_over_a_container_or_an_abstract_one_needs_functions() -> None:
    @dataclasses.dataclass
    class Output(dict):  # type: ignore[type-arg]
        a: int

    @dataclasses.dataclass
    class Abstract(abc.ABC):
        @abc.abstractmethod
        def f(self) -> None: ...

    for cls in (Output, Abstract):
        with pytest.raises(RegistrationError, match="encode="):
            register(cls)


def test_errors_of_registered_functions_are_told_with_their_path() -> None:
    def broken(_: Any) -> Any:
        raise KeyError("mine")

    register(Meter, encode=broken, decode=broken)
    with pytest.raises(KeyError, match="mine") as caught:
        flatten({"x": Meter(1)})
    assert "Meter, at x" in caught.value.__notes__[0]
    register(Meter, encode=lambda meter: meter.total, decode=broken)
    with pytest.raises(KeyError, match="mine") as caught:
        round_trip({"x": Meter(1)})
    assert "Meter, at x" in caught.value.__notes__[0]


def test_a_registered_class_that_encodes_to_itself_is_refused() -> None:
    register(Meter, encode=lambda meter: [meter], decode=lambda state: state[0])
    with pytest.raises(Exception, match="contains itself"):
        flatten({"x": Meter(1)})


def test_a_named_tuple_saved_before_it_was_registered_comes_back_as_the_registered_class() -> None:
    class Local(NamedTuple):
        a: int

    store = DictStore()
    root = store.save(Local(1))
    assert type(store.load(root)) is not Local
    register(Local)
    assert type(store.load(root)) is Local
