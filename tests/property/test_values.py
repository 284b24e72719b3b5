"""Values come back as they were, whatever they are; whatever the bytes are, decoding them refuses or is bounded."""

from __future__ import annotations

import datetime
import random
import tracemalloc
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plesio.errors import ValueRefused
from plesio.values import Ref, decode, decode_call, encode, encode_call, refs, segments
from plesio.values.encoding import INLINE_BYTES

KNOWN_BYTES = 4 << 20  # what a refused value may take whatever its length: a module loaded, messages, hypothesis
AMPLIFIED = (
    300  # bytes of objects for a byte of input: an empty set is 216 for 3, an empty array of numpy's about 200 for 9
)

keys = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=9)
scalars = keys | st.binary(max_size=9) | st.just(float("nan"))
offsets = st.integers(-86399, 86399).map(lambda s: datetime.timezone(datetime.timedelta(seconds=s)))
others = (
    st.datetimes(timezones=st.none() | offsets) | st.dates() | st.timedeltas() | st.decimals() | st.uuids()
    | st.complex_numbers() | st.builds(Ref, st.integers(0, 2**64 - 1))
)  # fmt: skip
dtypes = (
    hnp.scalar_dtypes() | hnp.byte_string_dtypes() | hnp.unicode_string_dtypes() | hnp.array_dtypes() | hnp.nested_dtypes()
)  # fmt: skip
arrays = dtypes.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)
hashable = st.recursive(
    keys | st.binary(max_size=9) | st.decimals(allow_nan=False) | st.uuids(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    few = st.lists(inner, max_size=4)
    return (
        few
        | few.map(tuple)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.dictionaries(st.text(max_size=5), inner)
    )


values = st.recursive(scalars | others | arrays | st.sets(hashable, max_size=4), containers, max_leaves=8)


def same(a: Any, b: Any) -> bool:
    """Of one type, and equal to the bit: -0.0 is not 0.0, and NaN is NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    if isinstance(a, (set, frozenset)):
        return sorted(map(repr, a)) == sorted(map(repr, b)) or a == b
    if isinstance(a, (np.ndarray, np.generic)):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return repr(a) == repr(b)


@settings(max_examples=150)
@given(values, st.booleans())
def test_any_value_comes_back_from_any_buffer(value: Any, writable: bool) -> None:
    data = encode(value)
    assert same(decode(bytearray(data) if writable else data), value)


@settings(max_examples=50)
@given(st.lists(values, max_size=3), st.dictionaries(st.text(max_size=3), values, max_size=3))
def test_any_call_comes_back_and_names_its_refs(args: list[Any], kwargs: dict[str, Any]) -> None:
    data, needed = encode_call(tuple(args), kwargs)
    assert same(decode_call(data), (tuple(args), kwargs))
    assert needed == refs(data)
    decode(data, results=dict.fromkeys(needed, 0))


@settings(max_examples=150)
@given(arrays, st.data())
def test_any_view_of_an_array_comes_back(array: np.ndarray, draw: st.DataObject) -> None:
    view = array
    if array.ndim:
        view = array[draw.draw(hnp.basic_indices(array.shape, allow_newaxis=True, allow_ellipsis=True))]
        if isinstance(view, np.ndarray) and draw.draw(st.booleans()):
            view = np.broadcast_to(view.T, (draw.draw(st.integers(0, 40)), *view.T.shape))
    back = decode(encode((view,)))[0]
    assert same(back, view)
    if isinstance(back, np.ndarray):
        assert back.flags.writeable
        assert back.flags.f_contiguous == view.flags.f_contiguous or back.flags.c_contiguous


@settings(max_examples=100)
@given(
    st.sampled_from(
        ["bool", "uint8", "int8", "int32", "int64", "float16", "bfloat16", "float32", "float64", "complex128"]
    ),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=12),
    st.data(),
)
def test_any_tensor_comes_back(name: str, shape: tuple[int, ...], draw: st.DataObject) -> None:
    dtype = getattr(torch, name)
    bits = torch.randint(0, 2 if dtype is torch.bool else 256, (*shape, dtype.itemsize), dtype=torch.uint8)
    tensor = bits.view(dtype).reshape(shape).permute(draw.draw(st.permutations(range(len(shape)))))
    back = decode(encode([tensor]))[0]
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    assert back.reshape(-1).view(torch.uint8).equal(tensor.contiguous().reshape(-1).view(torch.uint8))


def bounded(data: bytes) -> bool:
    """Is it accepted? Fails when it takes too much memory, or raises anything but ValueRefused."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        for read in (refs, segments, decode, decode_call):
            read(data)
        accepted = True
    except ValueRefused:
        accepted = False
    assert tracemalloc.get_traced_memory()[1] - before < AMPLIFIED * len(data) + KNOWN_BYTES
    return accepted


@pytest.fixture(scope="module")
def traced() -> Any:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def corpus() -> list[bytes]:
    large = np.arange(INLINE_BYTES // 4, dtype=np.float64)
    fields = np.zeros(3, np.dtype([("a", "<i4"), ("b", "f8", (2,))], align=True))
    many = [
        [(1, "a"), (2, "b")], {(1, 2): {3, None}}, [1j, datetime.date(2024, 1, 1), datetime.timedelta(3)],
        [np.float32(1), np.arange(4), fields, np.array(["a", "bc"])], (large, large.astype("f4")), torch.ones(4),
        {"t": torch.arange(2000.0), "m": np.array(["2024"], "M8[Y]")}, [Ref(1), {"a": Ref(2)}],
    ]  # fmt: skip
    return [encode_call((value,), {"a": value})[0] for value in many]


@pytest.mark.usefixtures("traced")
def test_ten_thousand_mutated_values_are_refused_or_bounded() -> None:
    rng = random.Random(0)
    samples = corpus()
    accepted = 0
    for _ in range(10_000):
        data = bytearray(rng.choice(samples))
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(min(len(data), 200)) if data else 0
            kind = rng.randrange(4)
            if kind == 0 and data:
                data[at] = rng.randrange(256)
            elif kind == 1:
                data[at:at] = rng.randbytes(rng.randrange(1, 9))
            elif kind == 2:
                del data[at : at + rng.randrange(1, 9)]
            else:
                data[at : at + 1] = rng.choice(
                    (b"\xff" * 4, b"\xdd\xff\xff\xff\xff", b"\xdd\0\0\0\x7f", b"\xc7\x05\x01", b"\0" * 8)
                )
        accepted += bounded(bytes(data))
    assert 100 < accepted < 9000, "some are values, many are not"


@pytest.mark.usefixtures("traced")
@settings(max_examples=500)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_value_or_refused(data: bytes) -> None:
    bounded(data)
    bounded(b"\xc1" + data)
