"""Arguments and results of tasks as bytes: what comes back, what is refused and how it is said, and hostile bytes."""

from __future__ import annotations

import collections
import enum
import gc
import math
import struct
import subprocess
import sys
import tracemalloc
import weakref
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pytest
import torch

from plesio.errors import CannotSend, ValueRefused
from plesio.values import Ref, decode, decode_call, encode, encode_call, refs, segments
from plesio.values.encoding import INLINE_BYTES

HOUR_AHEAD = timezone(timedelta(hours=1))
NESTED = 100_000


@dataclass
class Model:
    rate: float = 0.1


class Record(msgspec.Struct):
    rate: float = 0.1


class Color(enum.IntEnum):
    RED = 1


Pair = collections.namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -(2**63), 2**64 - 1, 1.5, -0.0, math.inf, "", "grüße", b"\x00\xc1", [], (), {}, set(), frozenset(),
        [1, [2, [3]]], (1, (2, (3,))), [(1, "a"), (2, "b")], [(1, (2,)), [3]], [()], ([],), {"a": (1,)}, {(1, 2): 3},
        {1: "a", None: "b", b"x": "c", 1.5: "d", (1, (2,)): {3}}, {1, "a", (2, 3)}, frozenset({frozenset({1}), 2}),
        {frozenset({1}): Decimal(1)}, datetime(2024, 2, 29, 1, 2, 3, 4), datetime(2024, 1, 1, tzinfo=HOUR_AHEAD),
        date(1, 1, 1), timedelta(days=-3, microseconds=1), Decimal("1.10"), Decimal("-Infinity"), UUID(int=7), 1 - 2j,
        Ref(5), [(Ref(1), {"a": Ref(2**63)})],
    ],
)  # fmt: skip
def test_it_comes_back_as_it_was(value: Any) -> None:
    back = decode(encode(value))
    assert back == value
    assert repr(back) == repr(value), "types, signs and digits too"


def test_a_value_without_refs_and_large_buffers_is_plain_msgpack() -> None:
    assert msgspec.msgpack.decode(encode({"a": [1, "b", None]})) == {"a": [1, "b", None]}
    assert msgspec.msgpack.decode(encode_call((1, "a"), {"b": 2.0})[0]) == [[1, "a"], {"b": 2.0}]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, 2, 3, Model()]}, "result['a'][3]: a Model cannot be sent; "),
        ((1, {"b": Record()}), "result[1]['b']: a Record cannot be sent; "),
        ([2**64], "result[0]: an int of 65 bits cannot be sent, 64 are the most; send str(it)"),
        (-(2**63) - 1, "result: an int of 64 bits cannot be sent"),
        ({2**70: 1}, f"result's key {2**70}: an int of 71 bits"),
        (("\ud800",), "result[0]: 'utf-8' codec can't encode"),
        ({"a": {2, Color.RED}}, "result['a']'s element: a Color would come back as a plain int; send int(it)"),
        ([Pair(1, 2)], "result[0]: a Pair would come back as a plain tuple; send tuple(it)"),
        (collections.Counter("a"), "result: a Counter would come back as a plain dict; send dict(it)"),
        (bytearray(b"a"), "result: a bytearray cannot be sent; send bytes(it)"),
        ([len], "result[0]: a builtin_function_or_method cannot be sent; "),
        ([np.array([None])], "result[0]: an array of Python objects cannot be sent; "),
        ([np.ma.zeros(3)], "result[0]: a MaskedArray would come back as a plain array; send numpy.asarray(it)"),
        ([torch.ones(1, device="meta")], "result[0]: a tensor on meta cannot be sent; call .cpu()"),
        ({"w": torch.ones(1, requires_grad=True)}, "result['w']: a tensor that requires grad"),
        (torch.nn.Linear(1, 1).weight, "call .detach()"),
        (torch.eye(2).to_sparse(), "result: a tensor of float32 in layout torch.sparse_coo cannot be sent"),
    ],
)
def test_what_would_change_on_the_way_is_refused_with_its_place(value: Any, message: str) -> None:
    with pytest.raises(CannotSend) as refused:
        encode(value, what="result")
    assert message in str(refused.value)


def test_a_call_says_which_argument_cannot_be_sent() -> None:
    with pytest.raises(CannotSend, match=r"^args\[1\]\['m'\]: a Model cannot"):
        encode_call((1, {"m": Model()}), {"a": 2})
    with pytest.raises(CannotSend, match=r"^kwargs\['a'\]\[0\]: an int of 81 bits"):
        encode_call((1,), {"a": [2**80]})


def test_a_value_that_contains_itself_or_is_too_deep_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    deep: Any = ()
    for _ in range(NESTED):
        deep = (deep,)
    for value in (loop, deep, {"a": loop}):
        with pytest.raises(CannotSend, match="nested too deeply, or contains itself"):
            encode(value)
        with pytest.raises(CannotSend, match="nested too deeply, or contains itself"):
            encode_call((value,), {})


def test_what_is_nested_moderately_comes_back() -> None:
    lists: Any = []
    tuples: Any = ()
    for _ in range(150):
        lists, tuples = [lists], (tuples,)
    assert decode(encode(lists)) == lists
    assert decode(encode(tuples)) == tuples


def test_a_call_comes_back_as_args_and_kwargs() -> None:
    for args, kwargs in (
        ((), {}),
        ((1, [2], (3,)), {"a": (4,)}),
        (((1, 2), (3, 4)), {}),
        ((np.float32(1),), {"b": {}}),
    ):
        data, needed = encode_call(args, kwargs)
        back = decode_call(data)
        assert (back, needed) == ((args, kwargs), ())
        assert repr(back) == repr((args, kwargs))


def test_a_decoded_value_is_let_go_without_a_garbage_collection() -> None:
    gc.disable()
    try:
        seen = weakref.ref(decode(bytearray(encode(np.ones(5000))))[:])
        result = np.ones(3)
        kept = weakref.ref(result)
        decode(encode([Ref(1)]), results={1: result})
        del result
        assert seen() is None and kept() is None
    finally:
        gc.enable()


def test_only_a_call_decodes_as_one() -> None:
    for value in ([1, 2], [[1], {}, 3], [(1,), {}], [[], {1: 2}], {}, 5, ([], {})):
        with pytest.raises(ValueRefused, match="not the arguments of a call"):
            decode_call(encode(value))


def test_refs_are_found_and_replaced_by_their_results() -> None:
    data, needed = encode_call((Ref(7), [Ref(2**63), 1]), {"a": {"b": (Ref(7),)}})
    assert needed == refs(data) == (7, 2**63)
    back = decode_call(data, results={7: "seven", 2**63: [8]})
    assert back == (("seven", [[8], 1]), {"a": {"b": ("seven",)}})
    assert decode_call(data) == ((Ref(7), [Ref(2**63), 1]), {"a": {"b": (Ref(7),)}})
    with pytest.raises(ValueRefused, match="needs the result of task 7, which is not"):
        decode(data, results={})
    assert refs(encode([1])) == segments(encode([1])) == segments(data) == ()


def test_arrays_keep_dtype_shape_and_order() -> None:
    record = np.dtype([("a", "<i4"), ("b", [("c", ">f8", (2, 3))]), ("d", "U5")], align=True)
    for array in (
        np.arange(6, dtype=">i2").reshape(2, 3), np.asfortranarray(np.ones((3, 4))), np.arange(20)[::-3], np.array(5.0),
        np.empty((0, 3), "f2"), np.broadcast_to(np.float32(1), (100, 200)), np.array([True]), np.array(["a", "xyz"]),
        np.array([b"a\0b"]), np.array(["2024-01-01", "NaT"], "M8[D]"), np.array([1, 2], "m8[25s]"), np.zeros(3, "V7"),
        np.array([1 + 2j]), np.zeros(4, record), np.zeros((2, 0), record), np.arange(3, dtype=np.longdouble),
    ):  # fmt: skip
        for value in (array, np.repeat(array[None], 3000, 0)):
            back = decode(encode([(value,)]))[0][0]
            assert (back.dtype, back.shape, type(back)) == (value.dtype, value.shape, np.ndarray)
            assert back.tobytes() == value.tobytes()
            assert back.flags.writeable and back.flags.aligned
            assert back.flags.f_contiguous or not value.flags.f_contiguous


def test_numpy_scalars_stay_scalars() -> None:
    for value in (
        np.float32(1.5), np.int8(-1), np.bool_(True), np.complex64(1j), np.str_("ä\0"), np.bytes_(b"a\0"), np.str_(""),
        np.datetime64("2024-01-01T00:00:01"), np.timedelta64(3, "h"), np.zeros(1, "i4,f8")[0], np.float64("nan"),
    ):  # fmt: skip
        back = decode(encode(value))
        assert type(back) is type(value) and back.dtype == value.dtype
        assert back.tobytes() == value.tobytes() and repr(back) == repr(value)


def test_tensors_keep_dtype_and_shape() -> None:
    for name in ("bool", "uint8", "int64", "uint16", "float16", "bfloat16", "float64", "complex64", "float8_e4m3fn"):
        dtype = getattr(torch, name)
        for shape in ((), (0, 3), (5,), (2, 3, 4), (200, 100)):
            value = (torch.rand(shape) * 3).to(dtype)
            back = decode(encode({"t": value}))["t"]
            assert (back.dtype, back.shape) == (dtype, value.shape)
            assert back.view(torch.uint8).equal(value.view(torch.uint8)) if shape else back.item() == value.item()
    strided = torch.arange(24.0).view(2, 3, 4).permute(2, 0, 1)[1:, :, ::2]
    assert decode(encode(strided)).equal(strided)
    conjugate = torch.tensor([1 + 2j, 3j]).conj()
    assert decode(encode(conjugate)).equal(conjugate.resolve_conj())
    assert decode(encode(torch.ones(1).expand(50, 50))).equal(torch.ones(50, 50))


@pytest.mark.parametrize("size", [10, INLINE_BYTES, 1 << 20])
def test_an_array_lies_in_a_buffer_that_may_be_written_and_else_is_a_copy(size: int) -> None:
    data = encode([np.zeros(size, np.uint8), torch.zeros(size, dtype=torch.uint8)])
    received = bytearray(data)
    for back in (decode(received), decode(memoryview(received).toreadonly())):
        back[0][:] = back[1][:] = 1
    views = size > INLINE_BYTES
    assert received.count(1, -size) == (size if views else 0)
    assert decode(data)[0].sum() == 0


def test_neither_encoding_nor_decoding_plain_values_loads_numpy() -> None:
    code = (
        "import sys; from plesio.values import decode, encode\n"
        "assert decode(encode([(1, {2j})])) == [(1, {2j})]\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def sample() -> bytes:
    return encode_call(
        (Ref(1), np.arange(2000.0), np.float32(1), [(1, 2)], torch.ones(3)),
        {"a": {(1,): {Decimal(1), 1j, UUID(int=1)}}},
    )[0]


def test_a_value_cut_off_anywhere_is_refused() -> None:
    data = sample()
    for end in [*range(600), *range(600, len(data), 997)]:
        with pytest.raises(ValueRefused):
            decode(data[:end])


def ext(code: int, data: bytes) -> bytes:
    return struct.pack(">BIB", 0xC9, len(data), code) + data


def array(kind: int, dtype: Any, shape: Any, data: Any) -> bytes:
    return ext(6, msgspec.msgpack.encode((kind, dtype, shape, data)))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xc1", b"\xc1" + bytes(8), b"\xc1" + b"\xff" * 8, b"\x91", b"\x01\x02", b"\xa1\xff", ext(99, b""),
        ext(1, b"\x05"), ext(3, b"\x91\x01"), ext(3, b"\x92\x90\x01"), ext(4, b"\x91\x90"), ext(7, b"\x00"),
        ext(16, b"x"), ext(17, b"\xff"), ext(18, b"\x93" + b"\xcf" + b"\x7f" * 8 + b"\0\0"), ext(19, b"1/2"), ext(20, b"1"),
        ext(4, b"\x91" + ext(19, b"sNaN")), ext(21, b"1"), array(0, "|O8", [1], bytes(8)), array(0, "<f8", [2], bytes(8)),
        array(0, "<f8", [2**62, 4], b""), array(0, "<f8", [-1], bytes(8)), array(0, "<f8", [1], 0), array(9, "<f8", [], b""),
        array(0, "<f8", [0] * 65, b""), array(0, "i8,O", [1], bytes(8)), array(0, ["<f8", [2**40]], [1], bytes(8)),
        array(0, [["a"], ["|O8"], [0], 8, [None]], [1], bytes(8)),
        array(0, [["a"], ["<f8"], [-8], 8, [None]], [1], bytes(8)),
        array(0, [["a"], ["<f8"], [4], 8, [None]], [1], bytes(8)), array(0, ["|V1"] * 3, [1], b"1"),
        array(0, [["a"], ["<f8"], [0], 8, [[1]]], [1], bytes(8)), array(0, "|V999999999", [1], b"1"),
        array(2, "<U1", [], b"\xff\xff\xff\xff"), array(2, "<f8", [1, 1], bytes(7)), array(3, "qint8", [1], b"1"),
        array(3, "float32", [3], b"1"), array(3, "__class__", [1], b"1"), array(3, ["float32", [1]], [1], bytes(4)),
    ],
)  # fmt: skip
def test_hostile_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueRefused):
        decode(data)
    with pytest.raises(ValueRefused):
        decode(bytearray(data))


def test_a_head_that_promises_what_is_not_there_is_refused() -> None:
    for head in (
        (1, (), "", ((False, 0, 1),)), (1, (), "", ((False, 2**63, 2**62),)), (1, (), "", ((False, -1, 1),)),
        (2, (), "", ()),
        (1, (), "", ((True, 0, 10),)), (1, ("a",), "", ()), (1, (), "a" * 32, ()), (1, (), 3, ()), (1,), (),
    ):  # fmt: skip
        packed = msgspec.msgpack.encode(head)
        with pytest.raises(ValueRefused):
            decode(struct.pack("<BII", 0xC1, len(packed), 1) + packed + b"\x01")


def test_an_empty_array_of_giant_elements_allocates_nothing() -> None:
    tracemalloc.start()
    assert decode(array(0, "|V999999999", [0], b"")).size == 0
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("nest", [b"\x91", b"\x81\xa0", b"\xdd\x00\x00\xff\xff", b"\x81\x91"])
def test_deep_nesting_is_refused(nest: bytes) -> None:
    with pytest.raises(ValueRefused):
        decode(nest * NESTED)


def test_deeply_nested_extensions_are_refused() -> None:
    data = b""
    for _ in range(NESTED // 20):
        data = ext(1, data[:NESTED])
    with pytest.raises(ValueRefused):
        decode(data)


def test_billions_of_entries_are_refused_at_once() -> None:
    for start in (
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
    ):
        tracemalloc.start()
        with pytest.raises(ValueRefused):
            decode(start)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()
