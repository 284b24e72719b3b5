"""A value as bytes and back: msgpack, extended by what Python, numpy and torch have and msgpack has not.

Plain msgpack is what most values are, with nothing around it. One with references, large buffers or a segment starts
with a byte that msgpack never uses, and a head that is read without the rest:

    0xC1, u32 head length, u32 body length, head, body, to the next multiple of 64: buffers

msgpack knows no tuple, and msgspec would send one as a list (a set, a Decimal, a dataclass likewise, as something else), so
every value is walked once: at the speed of `map(type, ...)` where a container holds scalars only, a Python call for each
other container. A list of tuples of scalars is one pass too. Aliases are not kept: what is in a value twice comes back as
two. A datetime keeps its offset from UTC, not its zone's name. Nothing here can run code, and nothing is pickled.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import chain
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec.msgpack import Ext

from plesio.errors import CannotSend, PlesioError, ValueRefused
from plesio.values import arrays
from plesio.values.shares import Shares

Buffer = bytes | bytearray | memoryview

INLINE_BYTES = 4096  # larger buffers stand behind the body: copied once, however deep they are
ALIGNMENT = 64
VERSION = 1
_ESCAPE = 0xC1  # a byte that no msgpack starts with
_PREFIX = struct.Struct("<BII")
_COMPLEX = struct.Struct("<dd")
_REF = struct.Struct("<Q")

_TUPLE, _TUPLES, _PAIRS, _SET, _FROZENSET, _ARRAY, _REFERENCE = range(1, 8)
_DATETIME, _DATE, _TIMEDELTA, _DECIMAL, _UUID, _COMPLEX_NUMBER = range(16, 22)
_SCALARS = frozenset({type(None), bool, int, float, str, bytes})
_ONLY_TUPLES = frozenset({tuple})
_UNFIT = (CannotSend, OverflowError, UnicodeEncodeError, RecursionError)
_BROKEN = (
    msgspec.MsgspecError, struct.error, ValueError, TypeError, ArithmeticError, LookupError, RuntimeError, MemoryError,
)  # fmt: skip  # what readers raise for bytes that nobody encoded; a RecursionError is a RuntimeError

_NaturalInt = Annotated[int, msgspec.Meta(ge=0)]
_Place = tuple[
    bool, _NaturalInt, _NaturalInt
]  # of a buffer: in the segment? its offset there or behind the body, its length


class Ref(msgspec.Struct, frozen=True):
    """Stands for the result of task `id` in an argument: `decode` puts that result in its place."""

    id: int


class _Head(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    version: int
    refs: tuple[int, ...]
    segment: str
    buffers: tuple[_Place, ...]


class _Array(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    kind: Annotated[int, msgspec.Meta(ge=arrays.C_ARRAY, le=arrays.TENSOR)]
    dtype: arrays.Spec
    shape: Annotated[tuple[_NaturalInt, ...], msgspec.Meta(max_length=arrays.MAX_DIMENSIONS)]
    data: bytes | int  # or the number of a buffer


_Extras = tuple[list[int], list[memoryview]]  # what an encoded value holds beside its body: ids of Refs, buffers

_NO_HEAD = _Head(VERSION, (), "", ())
_pack = msgspec.msgpack.Encoder().encode
_read_head = msgspec.msgpack.Decoder(_Head).decode
_read_array = msgspec.msgpack.Decoder(_Array).decode
_read_timedelta = msgspec.msgpack.Decoder(tuple[int, int, int]).decode
_read_tuples = msgspec.msgpack.Decoder(list[tuple]).decode  # type: ignore[type-arg]


def encode(value: Any, shares: Shares | None = None, what: str = "value") -> bytes:
    """The value as bytes. With `shares`, its large buffers go to a segment there, and the bytes name it.

    Raises CannotSend for what cannot travel, saying where it is: `result["a"][3]: a Model cannot be sent; ...`, where
    `what` is "result".
    """
    extras: _Extras = [], []
    try:
        body = _pack(_dress(value, extras))
    except _UNFIT as error:
        raise CannotSend(_explain(value, what, error)) from None
    return _assemble(body, extras, shares) if extras[0] or extras[1] else body


def encode_call(
    args: Sequence[Any], kwargs: Mapping[str, Any], shares: Shares | None = None
) -> tuple[bytes, tuple[int, ...]]:
    """A call's arguments as bytes, and the ids of the tasks whose results it needs. Otherwise as `encode`."""
    extras: _Extras = [], []
    try:
        plain = args if _SCALARS.issuperset(map(type, args)) else [_dress(value, extras) for value in args]
        scalars = not kwargs or _SCALARS.issuperset(map(type, kwargs.values()))
        named = kwargs if scalars else {name: _dress(value, extras) for name, value in kwargs.items()}
        body = _pack((plain, named))
    except _UNFIT as error:
        raise CannotSend(_explain_call(args, kwargs, error)) from None
    if not extras[0] and not extras[1]:
        return body, ()
    return _assemble(body, extras, shares), tuple(dict.fromkeys(extras[0]))


def decode(data: Buffer, shares: Shares | None = None, results: Mapping[int, Any] | None = None) -> Any:
    """The inverse of `encode`; `results` replace the Refs (None: they stay).

    Arrays are writable and nobody else's: large ones lie in `data` itself where that is writable (a bytearray: keep it
    unchanged), in a private mapping of their segment (copied by the page where written to), else in copies.
    Raises ValueRefused for any other bytes, having allocated a small multiple of their length at most, and
    SegmentGone when the segment is.
    """
    try:
        if data[0] != _ESCAPE:
            return _PLAIN.decode(data)
        return _open(memoryview(data).cast("B"), shares, results)
    except PlesioError:
        raise
    except _BROKEN as error:
        raise ValueRefused(f"the bytes are not an encoded value: {error}") from error


def decode_call(
    data: Buffer, shares: Shares | None = None, results: Mapping[int, Any] | None = None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The (args, kwargs) of `encode_call`. Otherwise as `decode`."""
    call = decode(data, shares, results)
    if type(call) is list and len(call) == 2:
        args, kwargs = call
        if type(args) is list and type(kwargs) is dict and (not kwargs or {str}.issuperset(map(type, kwargs))):
            return tuple(args), kwargs
    raise ValueRefused("the bytes are an encoded value, and not the arguments of a call")


def refs(data: Buffer) -> tuple[int, ...]:
    """The ids of all Refs in an encoded value, each once. Reads its head only; raises ValueRefused."""
    return _head(data).refs


def segments(data: Buffer) -> tuple[str, ...]:
    """The names of the segments that an encoded value lives in. Reads its head only; raises ValueRefused."""
    segment = _head(data).segment
    return (segment,) if segment else ()


# To bytes: plain values stay as they are, others become Ext; what stands outside the body goes to `extras`.


def _dress(value: Any, extras: _Extras) -> Any:
    kind = type(value)
    if kind in _SCALARS or (kind is dict and not value):
        return value
    if kind is tuple:
        scalars = _SCALARS.issuperset(map(type, value))
        return Ext(_TUPLE, _pack(value if scalars else [_dress(part, extras) for part in value]))
    if kind is list:
        if _SCALARS.issuperset(map(type, value)):
            return value
        if type(value[0]) is tuple and _is_flat(value):
            return Ext(_TUPLES, _pack(value))
        return [_dress(part, extras) for part in value]
    if kind is dict:
        if not _SCALARS.issuperset(map(type, value)):
            return Ext(_PAIRS, _pack([_dress(part, extras) for part in chain.from_iterable(value.items())]))
        if _SCALARS.issuperset(map(type, value.values())):
            return value
        return {key: _dress(part, extras) for key, part in value.items()}
    if (write := _WRITERS.get(kind)) is not None:
        code, data = write(value)
        return Ext(code, data)
    if kind is set or kind is frozenset:
        return Ext(_SET if kind is set else _FROZENSET, _pack([_dress(part, extras) for part in value]))
    return _dress_rare(value, extras)


def _is_flat(value: list[Any]) -> bool:
    """Are these tuples of scalars only?"""
    return _ONLY_TUPLES.issuperset(map(type, value)) and _SCALARS.issuperset(map(type, chain.from_iterable(value)))


def _dress_rare(value: Any, extras: _Extras) -> Ext:
    if type(value) is Ref:
        extras[0].append(value.id)
        return Ext(_REFERENCE, _REF.pack(value.id))
    apart = arrays.take_apart(value)
    if apart is None:
        raise CannotSend(_refusal(value))
    kind, dtype, shape, buffer = apart
    if len(buffer) <= INLINE_BYTES:
        return Ext(_ARRAY, _pack(_Array(kind, dtype, shape, bytes(buffer))))
    extras[1].append(buffer)
    return Ext(_ARRAY, _pack(_Array(kind, dtype, shape, len(extras[1]) - 1)))


_WRITERS: dict[type, Callable[[Any], tuple[int, bytes]]] = {
    datetime: lambda value: (_DATETIME, value.isoformat().encode() + b"F" * value.fold),
    date: lambda value: (_DATE, value.isoformat().encode()),
    timedelta: lambda value: (_TIMEDELTA, _pack((value.days, value.seconds, value.microseconds))),
    Decimal: lambda value: (_DECIMAL, str(value).encode()),
    UUID: lambda value: (_UUID, value.bytes),
    complex: lambda value: (_COMPLEX_NUMBER, _COMPLEX.pack(value.real, value.imag)),
}


def _assemble(body: bytes, extras: _Extras, shares: Shares | None) -> bytes:
    ids, buffers = extras
    segment, shared = "", {}
    if shares is not None:
        large = [number for number, buffer in enumerate(buffers) if len(buffer) >= shares.threshold_bytes]
        if large and (put := shares.put([buffers[number] for number in large])) is not None:
            segment, shared = put[0], dict(zip(large, put[1], strict=True))
    places: list[_Place] = []
    pieces: list[bytes | memoryview] = []
    end = 0
    for number, buffer in enumerate(buffers):
        if number in shared:
            places.append((True, shared[number], len(buffer)))
        else:
            places.append((False, end, len(buffer)))
            pieces += (buffer, bytes(-len(buffer) % ALIGNMENT))
            end += len(buffer) + -len(buffer) % ALIGNMENT
    head = _pack(_Head(VERSION, tuple(dict.fromkeys(ids)), segment, tuple(places)))
    start = _PREFIX.size + len(head) + len(body)
    return b"".join((_PREFIX.pack(_ESCAPE, len(head), len(body)), head, body, bytes(-start % ALIGNMENT), *pieces))


def inlined(data: Buffer, shares: Shares) -> bytes:
    """The same value with nothing left in a segment: for who cannot read it. Raises ValueRefused, SegmentGone."""
    try:
        head, body, tail = _parts(memoryview(data).cast("B"))
        if not head.segment:
            return bytes(data)
        mapped, buffers = shares.open(head.segment), []
        for shared, offset, length in head.buffers:
            buffers.append((mapped if shared else tail)[offset : offset + length])
        return _assemble(bytes(body), (list(head.refs), buffers), None)
    except PlesioError:
        raise
    except _BROKEN as error:
        raise ValueRefused(f"the bytes are not an encoded value: {error}") from error


# From bytes. `_BROKEN` may be raised anywhere.


class _Reader:
    """Reads bodies, one at a time: `buffers` stand outside it, `results` replace its Refs.

    It and its decoder know each other: made once and used again, it is no garbage that would keep mappings alive.
    """

    def __init__(self) -> None:
        self.buffers: Sequence[memoryview] = ()
        self.results: Mapping[int, Any] | None = None
        self.decode = msgspec.msgpack.Decoder(ext_hook=self._read).decode

    def _read(self, code: int, data: memoryview) -> Any:
        if code == _TUPLE:
            return tuple(self.decode(data))
        if (read := _READERS.get(code)) is not None:
            return read(data)
        if code == _ARRAY:
            head = _read_array(data)
            buffer = bytearray(head.data) if isinstance(head.data, bytes) else self.buffers[head.data]
            return arrays.build(head.kind, head.dtype, head.shape, buffer)
        if code == _REFERENCE:
            return self._reference(*_REF.unpack(data))
        if code == _PAIRS:
            parts = iter(self.decode(data))
            return dict(zip(parts, parts, strict=True))
        if code in (_SET, _FROZENSET):
            return (set if code == _SET else frozenset)(self.decode(data))
        raise ValueRefused(f"the bytes hold a value of an unknown kind, {code}; install the same plesio everywhere")

    def _reference(self, id: int) -> Any:
        if self.results is None:
            return Ref(id)
        if id not in self.results:
            raise ValueRefused(f"the value needs the result of task {id}, which is not among those given")
        return self.results[id]


_READERS: dict[int, Callable[[memoryview], Any]] = {
    _TUPLES: _read_tuples,
    _DATETIME: lambda data: _read_datetime(str(data, "ascii")),
    _DATE: lambda data: date.fromisoformat(str(data, "ascii")),
    _TIMEDELTA: lambda data: timedelta(*_read_timedelta(data)),
    _DECIMAL: lambda data: Decimal(str(data, "ascii")),
    _UUID: lambda data: UUID(bytes=bytes(data)),
    _COMPLEX_NUMBER: lambda data: complex(*_COMPLEX.unpack(data)),
}
_PLAIN = _Reader()  # for any number of threads: it has neither buffers nor results
_idle: list[_Reader] = []  # one for each thread that ever decoded buffers or results at once with others


def _read_datetime(text: str) -> datetime:
    return datetime.fromisoformat(text.removesuffix("F")).replace(fold=text.endswith("F"))


def _open(data: memoryview, shares: Shares | None, results: Mapping[int, Any] | None) -> Any:
    head, body, tail = _parts(data)
    mapped: memoryview | None = None
    if head.segment:
        if shares is None:
            raise ValueRefused(f"a part of the value is in segment {head.segment!r}; only its own machine can read it")
        mapped = shares.open(head.segment)
    buffers: list[memoryview] = []
    for shared, offset, length in head.buffers:
        source = mapped if shared else tail
        part = memoryview(b"") if source is None else source[offset : offset + length]
        if len(part) != length:
            raise ValueRefused(f"the value has a buffer of {length} bytes, {len(part)} of which came")
        buffers.append(memoryview(bytearray(part)) if part.readonly else part)
    try:
        reader = _idle.pop()
    except IndexError:
        reader = _Reader()
    reader.buffers, reader.results = buffers, results
    try:
        return reader.decode(body)
    finally:
        reader.buffers, reader.results = (), None
        _idle.append(reader)


def _parts(data: memoryview) -> tuple[_Head, memoryview, memoryview]:
    """The head, the body, the buffers behind it."""
    _, head_bytes, body_bytes = _PREFIX.unpack_from(data)
    body_start = _PREFIX.size + head_bytes
    end = body_start + body_bytes
    if end > len(data):
        raise ValueRefused(f"an encoded value of {end} bytes was cut off at byte {len(data)}")
    head = _read_head(data[_PREFIX.size : body_start])
    if head.version != VERSION:
        raise ValueRefused(
            f"the value is in version {head.version} of the encoding; install the same plesio everywhere"
        )
    return head, data[body_start:end], data[end + -end % ALIGNMENT :]


def _head(data: Buffer) -> _Head:
    try:
        return _NO_HEAD if data[0] != _ESCAPE else _parts(memoryview(data).cast("B"))[0]
    except ValueRefused:
        raise
    except _BROKEN as error:
        raise ValueRefused(f"the bytes are not an encoded value: {error}") from error


# What is wrong with a value, and where. Slow: it encodes parts again.


def _explain(value: Any, path: str, error: Exception) -> str:
    if isinstance(error, RecursionError):
        return f"{path} cannot be sent: it is nested too deeply, or contains itself"
    for step, part in _steps(value):
        try:
            _pack(_dress(part, ([], [])))
        except _UNFIT as cause:
            return _explain(part, path + step, cause)
    if isinstance(error, OverflowError):
        return f"{path}: an int of {value.bit_length()} bits cannot be sent, 64 are the most; send str(it)"
    return f"{path}: {error}"


def _explain_call(args: Sequence[Any], kwargs: Mapping[str, Any], error: Exception) -> str:
    for name, values in (("args", list(args)), ("kwargs", dict(kwargs))):
        try:
            _pack(_dress(values, ([], [])))
        except _UNFIT as cause:
            return _explain(values, name, cause)
    return f"the call cannot be sent: {error}"


def _steps(value: Any) -> Iterator[tuple[str, Any]]:
    if type(value) is dict:
        yield from ((f"'s key {key!r}", key) for key in value)
        yield from ((f"[{key!r}]", part) for key, part in value.items())
    elif type(value) in (list, tuple):
        yield from ((f"[{number}]", part) for number, part in enumerate(value))
    elif type(value) in (set, frozenset):
        yield from (("'s element", part) for part in value)


def _refusal(value: Any) -> str:
    name = type(value).__name__
    for plain in (dict, list, tuple, set, bool, int, float, str, bytes):
        if isinstance(value, plain):
            return f"a {name} would come back as a plain {plain.__name__}; send {plain.__name__}(it)"
    if isinstance(value, (bytearray, memoryview)):
        return f"a {name} cannot be sent; send bytes(it)"
    return f"a {name} cannot be sent; send plain values, arrays and tensors, such as its fields in a dict"
