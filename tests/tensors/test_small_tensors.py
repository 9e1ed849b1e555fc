"""Records and spans are made in few looks at a tensor: they are what the definition says, for every odd tensor."""

from __future__ import annotations

import gc
import itertools
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
import torch
from hypothesis import given

from casckpt.objects.tree import canonical
from casckpt.objects.values import PARAMETER, REQUIRES_GRAD, TENSOR, TensorRecord
from casckpt.tensors.flatten import flatten
from casckpt.tensors.torch_leaves import DTYPES
from tests.equality import assert_same
from tests.strategies import sharing, tensors
from tests.tensors.dict_store import round_trip

NAMES = {dtype: name for name, dtype in DTYPES.items()}


def _odd() -> dict[str, list[torch.Tensor]]:
    """Tensors of which each is an exception to what is true of most."""
    base = torch.arange(48, dtype=torch.float32)
    number = torch.tensor([1 + 2j, 3 - 4j, 5j])
    return {
        "0-d": [torch.tensor(3.0), base[5]],
        "empty before and behind others": [base[7:7], base[4:6], base[9:9], base[2:3]],
        "empty alone": [torch.empty(0), torch.empty(2, 0, 3), base.clone()[9:9]],
        "empty with strange strides": [torch.empty(0).as_strided((0, 3), (7, 5))],
        "one element with a strange stride": [torch.ones(1).as_strided((1,), (1 << 40,))],
        "expanded": [torch.ones(1).expand(5), base[:2].expand(3, 2), torch.tensor(1).expand(4, 4)],
        "overlapping": [base.as_strided((5, 3), (1, 2), 4)],
        "channels last": [torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)],
        "turned": [base.view(6, 8).t(), base.view(6, 8).t()[2:]],
        "conjugate": [number, number.conj(), number.conj(), number[1:].conj()],
        "negative": [number.conj().imag, number.imag],
        "parts of numbers": [number.real, number.imag, number],
        "a little of much": [torch.zeros(1 << 20, dtype=torch.uint8)[1 << 19 :][:3]],
        "a parameter and its data": [parameter := torch.nn.Parameter(base.clone()), parameter.data, parameter.detach()],
        "frozen": [torch.nn.Parameter(base.clone(), requires_grad=False), base.clone().requires_grad_()],
        "in a graph": [base.clone().requires_grad_() * 2],
        "the same twice": [base, base],
        "wide types behind narrow ones": [base.view(torch.uint8)[9:11], base.view(torch.complex64)[2:3]],
        "shared memory": [torch.ones(3).share_memory_()],
        "of a buffer": [torch.frombuffer(bytearray(b"12345678"), dtype=torch.int16)],
    }


def _touched(tensor: torch.Tensor) -> list[int]:
    """The place in its storage of each element, one by one."""
    indices = itertools.product(*map(range, tensor.shape))
    at = int(tensor.storage_offset())
    return [at + sum(i * step for i, step in zip(index, tensor.stride(), strict=True)) for index in indices]


def _by_definition(state: list[torch.Tensor]) -> tuple[list[TensorRecord], list[bytes]]:
    """Records and bytes of spans, looked up slowly."""
    plain = [t.detach().resolve_conj().resolve_neg() if t.is_conj() or t.is_neg() else t for t in state]
    order = list(dict.fromkeys(tensor.untyped_storage()._cdata for tensor in plain))
    shared: dict[int, list[torch.Tensor]] = {key: [] for key in order}
    for tensor in plain:
        shared[tensor.untyped_storage()._cdata].append(tensor)
    aliases = {key: n for n, key in enumerate(key for key in order if len(shared[key]) > 1)}
    starts: dict[int, int] = {}
    spans = []
    for key in order:
        places = [(at * t.itemsize, (at + 1) * t.itemsize) for t in shared[key] for at in _touched(t)]
        low = min((low for low, _ in places), default=0)
        start = starts[key] = low - low % max(t.itemsize for t in shared[key])
        held = torch.empty(0, dtype=torch.uint8).set_(shared[key][0].untyped_storage())
        spans.append(held[start : max((high for _, high in places), default=0)].numpy().tobytes())
    records = []
    for given_, tensor in zip(state, plain, strict=True):
        key = tensor.untyped_storage()._cdata
        records.append(
            TensorRecord(
                dtype=NAMES[tensor.dtype],
                shape=tuple(tensor.shape),
                stride=None if tensor.is_contiguous() else tensor.stride(),
                offset=int(tensor.storage_offset()) - starts[key] // tensor.itemsize if tensor.numel() else 0,
                storage=order.index(key),
                alias=aliases.get(key),
                flags=REQUIRES_GRAD * given_.requires_grad + PARAMETER * isinstance(given_, torch.nn.Parameter),
            )
        )
    return records, spans


def _check(state: list[torch.Tensor]) -> None:
    records, spans = _by_definition(state)
    flat = flatten(state)
    assert flat.value == records
    assert [span.length for span in flat.spans] == [len(held) for held in spans]
    assert [span.copied() for span in flat.spans] == spans
    assert [bytes(span.host()) for span in flat.spans] == spans
    assert [span.flat().numpy().tobytes() for span in flat.spans] == spans
    assert all(span.on_host for span in flat.spans)
    fields = [[r.dtype, r.shape, r.stride, r.offset, spans[_number(r)], r.alias, r.flags] for r in records]
    assert canonical(flat.value, spans) == msgspec.msgpack.encode([1, *[[TENSOR, *of_one] for of_one in fields]])


def _number(record: TensorRecord) -> int:
    assert isinstance(record.storage, int)
    return record.storage


@pytest.mark.parametrize("what", _odd())
def test_odd_tensors_have_the_records_and_bytes_of_the_definition(what: str) -> None:
    state = _odd()[what]
    _check(state)
    if "conj" not in what and "neg" not in what and "graph" not in what:
        assert_same(state, round_trip(state))


@given(
    st.lists(tensors() | st.sampled_from([t for some in _odd().values() for t in some if t.numel() < 99]), max_size=5)
)
def test_any_tensors_have_the_records_and_bytes_of_the_definition(state: list[torch.Tensor]) -> None:
    _check(state)


@given(sharing())
def test_tensors_that_share_have_the_records_and_bytes_of_the_definition(state: list[torch.Tensor]) -> None:
    _check(state)


def test_what_is_made_for_each_tensor_is_none_of_the_garbage_collectors_business() -> None:
    """A full collection goes through every object of the process: many commits must not bring it about."""
    state: dict[str, Any] = {f"t{i}": torch.ones(3) for i in range(1000)}
    kept = [flatten(state)]  # torch's own objects for the storages are made once, and stay
    gc.collect()
    before = len(gc.get_objects())
    kept.append(flatten(state))
    gc.collect()
    assert len(gc.get_objects()) - before < 100
