"""Tensors: what is stored of them, and what of their sharing and strides comes back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from casckpt.errors import NoMemoryError, StateError, UnsupportedTypeError
from casckpt.objects.values import Map, TensorRecord
from casckpt.store.memory import MemoryStore
from casckpt.tensors.flatten import flatten
from casckpt.tensors.repository import Repository
from casckpt.tensors.torch_leaves import DTYPES
from tests.equality import assert_same, bits
from tests.tensors.dict_store import round_trip


def _records(state: dict[str, torch.Tensor]) -> dict[str, TensorRecord]:
    value = flatten(state).value
    assert isinstance(value, Map)
    return {str(key): item for key, item in value.entries if isinstance(item, TensorRecord)}


def test_every_dtype_that_torch_has_is_known_or_quantized() -> None:
    known = set(DTYPES.values())
    unknown = {item for item in vars(torch).values() if isinstance(item, torch.dtype)} - known
    assert all(str(dtype).startswith(("torch.qint", "torch.quint")) for dtype in unknown)
    assert all(dtype.itemsize == torch.empty(0, dtype=torch.uint8).view(dtype).element_size() for dtype in known)


@pytest.mark.parametrize("name", DTYPES)
def test_the_largest_and_smallest_bits_of_every_dtype_come_back(name: str) -> None:
    raw = torch.tensor([0, 1] * 8 if name == "bool" else [0, 255, 1, 127, 128, 0, 0, 0] * 2, dtype=torch.uint8)
    tensor = raw.view(DTYPES[name])
    loaded = round_trip(tensor)
    assert isinstance(loaded, torch.Tensor)
    assert loaded.dtype is tensor.dtype
    assert np.array_equal(bits(loaded), bits(tensor))


def test_a_small_view_of_a_large_storage_stores_only_what_it_shows() -> None:
    large = torch.zeros(1_000_000)
    flat = flatten({"head": large[500:510]})
    assert [span.length for span in flat.spans] == [40]


def test_an_expanded_tensor_stores_one_copy() -> None:
    expanded = torch.tensor([1.0, 2.0]).expand(1000, 2)
    assert [span.length for span in flatten(expanded).spans] == [8]
    assert_same(expanded, round_trip(expanded))


def test_a_span_is_the_live_bytes_of_the_tensor_and_keeps_them() -> None:
    span = flatten(torch.arange(4, dtype=torch.int8)[1:]).spans[0]
    assert bytes(span.host()) == b"\x01\x02\x03"  # the tensor itself is gone by now
    tensor = torch.zeros(3, dtype=torch.uint8)
    view = flatten(tensor).spans[0].host()
    tensor += 7
    assert bytes(view) == b"\x07\x07\x07"
    assert (view.format, view.ndim, view.contiguous) == ("B", 1, True)


def test_a_span_says_where_its_bytes_are_and_gives_them_there() -> None:
    span = flatten(torch.arange(4, dtype=torch.int16)[1:]).spans[0]
    assert span.on_host
    assert span.flat().tolist() == list(span.host()) == list(span.copied()) == [1, 0, 2, 0, 3, 0]
    assert (span.flat().dtype, span.flat().device.type) == (torch.uint8, "cpu")
    empty = flatten(torch.empty(0)).spans[0]
    assert (empty.copied(), bytes(empty.host()), empty.flat().numel()) == (b"", b"", 0)
    array = flatten(np.arange(3, dtype=np.uint8)).spans[0]
    assert array.on_host and array.copied() == bytes(array.host()) == b"\0\1\2"


def test_a_storage_that_is_freed_between_is_refused_where_it_is_read() -> None:
    tensor = torch.ones(4)
    span = flatten({"w": tensor}).spans[0]
    tensor.untyped_storage().resize_(8)
    for read in (span.host, span.copied, span.flat):
        with pytest.raises(StateError, match=r"^at w: .*freed"):
            read()
    assert tensor.untyped_storage().nbytes() == 8  # and it was not made longer


def test_a_span_begins_where_all_its_dtypes_have_whole_offsets() -> None:
    base = torch.arange(32, dtype=torch.uint8)
    state = {"bytes": base[3:5], "doubles": base.view(torch.float64)[1:3]}
    records = _records(state)
    assert (records["bytes"].offset, records["doubles"].offset) == (3, 1)
    state = {"bytes": base[11:13], "doubles": base.view(torch.float64)[2:3]}
    records = _records(state)
    assert (records["bytes"].offset, records["doubles"].offset) == (3, 1)
    assert flatten(state).spans[0].length == 16
    assert_same(state, round_trip(state))


def test_tied_tensors_share_memory_again_and_equal_ones_do_not() -> None:
    weight = torch.nn.Parameter(torch.randn(3, 4))
    state = {"in": weight, "out": weight, "turned": weight.detach().t(), "copy": weight.detach().clone()}
    loaded: Any = round_trip(state)
    assert_same(state, loaded)
    with torch.no_grad():
        loaded["in"][0, 0] = 42
    assert loaded["out"][0, 0] == loaded["turned"][0, 0] == 42
    assert loaded["copy"][0, 0] != 42


def test_aliases_are_numbered_in_order_of_appearance_and_only_where_shared() -> None:
    first, second = torch.zeros(2), torch.ones(2)
    records = _records({"alone": torch.ones(1), "b": second, "a": first, "b2": second[1:], "a2": first})
    assert {name: record.alias for name, record in records.items()} == {"alone": None, "b": 0, "a": 1, "b2": 0, "a2": 1}


def test_an_empty_view_shares_its_storage_again() -> None:
    base = torch.arange(6.0)
    assert_same(
        [base[4:], base[6:], base[2:2].reshape(0, 3)], round_trip([base[4:], base[6:], base[2:2].reshape(0, 3)])
    )


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0, 5), ()])
def test_empty_and_zero_dimensional_tensors_come_back(shape: tuple[int, ...]) -> None:
    assert_same(torch.zeros(shape), round_trip(torch.zeros(shape)))


def test_an_empty_tensor_with_strange_strides_comes_back() -> None:
    strange = torch.empty(0).as_strided((0, 3), (7, 5))
    loaded = round_trip(strange)
    assert isinstance(loaded, torch.Tensor)
    assert loaded.shape == (0, 3)


def test_lazy_conjugates_and_negatives_are_stored_as_what_they_show() -> None:
    number = torch.tensor([1 + 2j, 3 - 4j])
    state = [number, number.conj(), number.conj().imag]
    loaded: Any = round_trip(state)
    for saved, read in zip(state, loaded, strict=True):
        assert torch.equal(saved.resolve_conj().resolve_neg(), read)
        assert not read.is_conj() and not read.is_neg()


def test_a_tensor_inside_a_graph_comes_back_as_a_leaf() -> None:
    loaded = round_trip(torch.ones(2, requires_grad=True) * 2)
    assert isinstance(loaded, torch.Tensor)
    assert loaded.requires_grad and loaded.is_leaf
    assert torch.equal(loaded.detach(), torch.tensor([2.0, 2.0]))


def test_sparse_parameters_and_components_that_are_shared_come_back() -> None:
    values = torch.tensor([1.0, 2.0])
    sparse = torch.sparse_coo_tensor(torch.tensor([[0, 2]]), values, (3,), is_coalesced=True, check_invariants=True)
    state = {"values": values, "sparse": sparse, "parameter": torch.nn.Parameter(sparse.clone())}
    assert_same(state, round_trip(state))


def test_a_compressed_tensor_loads_without_a_warning_in_a_fresh_process(tmp_path: Path) -> None:
    program = """if True:
        import warnings, torch
        warnings.simplefilter("ignore")
        from tests.tensors.dict_store import DictStore
        store = DictStore()
        store.load(store.save(torch.empty(0)))
        value = store.value(store.save(torch.eye(2).to_sparse_csr()))
        print(repr((store.trees, store.spans, value)))
    """
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    reader = """if True:
        import sys
        from casckpt.objects.values import *
        from casckpt.tensors.inflate import inflate
        from casckpt.tensors.memory import Memory
        trees, spans, value = eval(sys.stdin.read())
        print(inflate(value, Memory.for_value(value)).to_dense().tolist())
    """
    read = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", reader],
        input=made,
        capture_output=True,
        text=True,
        check=True,
    )
    assert read.stdout.strip() == "[[1.0, 0.0], [0.0, 1.0]]"


def test_a_default_device_does_not_change_where_a_state_is_loaded() -> None:
    previous = torch.get_default_device()
    torch.set_default_device("meta")
    try:
        loaded: Any = round_trip({"w": torch.ones(2, device="cpu")})
    finally:
        torch.set_default_device(previous)
    assert loaded["w"].device.type == "cpu"
    assert torch.equal(loaded["w"], torch.ones(2))


class Tagged(torch.Tensor):
    """A subclass that nobody registered."""


class Spread(Tagged):
    """Looks like a DTensor."""

    def full_tensor(self) -> torch.Tensor:
        return self


def _refused() -> dict[str, Any]:
    with pytest.warns(UserWarning):
        quantized = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
        nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    return {
        "dequantize": quantized,
        "unbind": nested,
        "materialise": torch.ones(2, device="meta"),
        "to_dense": torch.ones(2).to_mkldnn(),
        "full_tensor()": torch.ones(2).as_subclass(Spread),
        "register": torch.ones(2).as_subclass(Tagged),
        "first batch": torch.nn.UninitializedParameter(),
    }


def test_tensors_that_cannot_be_saved_are_refused_by_path_with_a_way_out() -> None:
    for remedy, tensor in _refused().items():
        with pytest.raises(UnsupportedTypeError, match=r"^at model\.w") as caught:
            flatten({"model": {"w": tensor}})
        assert remedy in caught.value.remedy


def test_a_tensor_of_a_function_transform_is_refused() -> None:
    def inside(tensor: torch.Tensor) -> torch.Tensor:
        with pytest.raises(UnsupportedTypeError, match=r"torch\.func"):
            flatten({"w": tensor})
        return tensor

    torch.func.vmap(inside)(torch.ones(2, 2))


def test_a_tensor_with_a_storage_but_no_memory_is_refused() -> None:
    zeros = torch._efficientzerotensor((2000,))
    with pytest.raises(UnsupportedTypeError, match=r"at grad: .*save its clone\(\)"):
        flatten({"grad": zeros})
    assert_same(round_trip(zeros.clone()), torch.zeros(2000))


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_nothing_is_loaded_into_tensors_without_memory() -> None:
    repo = Repository(MemoryStore(chunk_size=1024))
    repo.commit({"large": torch.rand(2000), "small": torch.rand(2)})
    handle = repo.open_tensor("HEAD", "large")
    with FakeTensorMode():
        for read in (repo.load, lambda: repo.load(paths="small"), lambda: handle[3:5]):
            with pytest.raises(NoMemoryError):
                read()


def test_a_tensor_whose_storage_was_freed_is_refused() -> None:
    tensor = torch.ones(4)
    tensor.untyped_storage().resize_(0)
    with pytest.raises(StateError, match=r"^at w: .*freed"):
        flatten({"w": tensor})
