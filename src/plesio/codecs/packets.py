"""Packets: a tensor as bytes that name how to read them.

A packet names its stages, so a receiver needs only the registry: no codec object, no state, no pickle. Its payload is
what each stage before the last has beside the values that it hands on (where they belong, say), each part padded to
8 bytes, then what the last stage made of those values. Numbers are in the byte order of the host, little-endian in
practice. It does not move, checksum or encrypt bytes: that is `wire`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import msgspec
import torch

from plesio import registry
from plesio.errors import CodecError, UserError

if TYPE_CHECKING:
    from plesio.codecs.base import Stage

VERSION = 1
MAX_HEADER_BYTES = 4096
MAX_VALUES = 1 << 40
MAX_SWELLING = 1 << 15  # values that a byte of payload may stand for, beyond the first ROOM_VALUES
ROOM_VALUES = 1 << 20
MAX_STAGES = 8
FLOATS = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

Payload = bytes | memoryview
Shape = tuple[int, ...]
Stamp = tuple[str, tuple[int, ...]]  # a stage's registered name and its arguments
_Extent = Annotated[int, msgspec.Meta(ge=0, le=MAX_VALUES)]
_PREFIX = struct.Struct("<I")  # the header's length


class _Header(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    version: int
    stages: Annotated[tuple[Stamp, ...], msgspec.Meta(min_length=1, max_length=MAX_STAGES)]
    dtype: str
    shape: Annotated[tuple[_Extent, ...], msgspec.Meta(max_length=32)]


_read_header = msgspec.msgpack.Decoder(_Header).decode


class Packet(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One encoded tensor.

    dtype: of the tensor that was encoded, and of the one decoded; a key of FLOATS.
    """

    version: int
    stages: tuple[Stamp, ...]
    dtype: str
    shape: Shape
    payload: Payload

    def to_bytes(self) -> bytes:
        """Header length (4 bytes), header (msgpack), payload. Copies the payload once."""
        return b"".join((header(self.stages, self.dtype, self.shape), self.payload))

    @classmethod
    def from_bytes(cls, buffer: bytes | bytearray | memoryview) -> Packet:
        """The inverse of to_bytes; what it returns decodes. The payload is a view: keep the buffer unchanged.

        Raises CodecError on any other bytes. Allocates no more than a small multiple of their length, or, of what is
        compressed, of the shape that they tell.
        """
        packet = unopened(buffer)
        return msgspec.structs.replace(packet, payload=opened(packet)[0].payload)


def unopened(buffer: bytes | bytearray | memoryview) -> Packet:
    """What the bytes say; whether it can be read is not known yet. Raises CodecError for a malformed header."""
    view = memoryview(buffer).cast("B")
    if len(view) < _PREFIX.size:
        raise CodecError(f"a packet of {len(view)} bytes has no header")
    end = _PREFIX.size + _PREFIX.unpack_from(view)[0]
    if end > min(len(view), MAX_HEADER_BYTES):
        raise CodecError(f"a packet of {len(view)} bytes claims a header that ends at byte {end}")
    try:
        found = _read_header(view[_PREFIX.size : end])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CodecError(f"a packet's header is malformed: {error}") from error
    return Packet(found.version, found.stages, found.dtype, found.shape, view[end:])


@dataclass(frozen=True)
class Part:
    """Of a payload. shape: of the tensor that this stage was given."""

    stage: Stage
    shape: Shape
    offset: int
    size_bytes: int
    payload: Payload = b""

    @property
    def numel(self) -> int:
        """Values of that tensor."""
        return math.prod(self.shape)

    @property
    def data(self) -> Payload:
        """Its bytes."""
        return self.payload[self.offset : self.offset + self.size_bytes]


def stage(name: str, arguments: tuple[int, ...]) -> Stage:
    """The registered codec of that name. Raises UnknownName, or UserError for wrong arguments."""
    kind = registry.load(registry.STAGES, "codec", name)
    try:
        made: Stage = kind.from_stamp(*arguments)
    except (TypeError, ValueError):  # too few or too many
        raise UserError(f"codec {name!r} does not take {arguments}; its default is {kind()!r}") from None
    return made


def completed(stages: Sequence[Stage]) -> list[Stage]:
    """The same, with what makes bytes of values behind a last stage that only picks them."""
    return [*stages] if stages[-1].can_end else [*stages, stage("none", ())]


def layout(stages: Sequence[Stage], shape: Shape, dtype: torch.dtype) -> list[Part]:
    """The parts of the payload of a tensor of that shape. What ends behind the last part is the payload's length."""
    parts, offset = [], 0
    for one in stages[:-1]:
        size_bytes = one.side_bytes(shape)
        parts.append(Part(one, shape, offset, size_bytes))
        offset += size_bytes + -size_bytes % 8
        shape = one.inner_shape(shape)
    last = stages[-1]
    parts.append(Part(last, shape, offset, last.payload_bytes(math.prod(shape), dtype)))
    return parts


def opened(packet: Packet) -> list[Part]:
    """The parts of a packet, once all that could fail has been checked. Raises CodecError.

    The payload that they are of is the packet's, or longer, where that is compressed.
    """
    dtype = dtype_of(packet)
    if packet.version != VERSION:
        raise CodecError(f"a packet of version {packet.version}; this plesio reads version {VERSION}")
    numel, size_bytes = math.prod(max(d, 1) for d in packet.shape), len(packet.payload)
    if numel > MAX_VALUES or math.prod(packet.shape) > ROOM_VALUES + MAX_SWELLING * size_bytes:
        raise CodecError(f"a packet of shape {packet.shape} is too large for {size_bytes} bytes")
    try:
        stages = [stage(*stamp) for stamp in packet.stages]
        check_order(stages)
    except UserError as error:
        raise CodecError(f"a packet cannot be read: {error}") from error
    if stages[0].varies:
        payload = stages[0].unpacked(packet.payload, packet.shape, dtype)
        return [Part(stages[0], packet.shape, 0, len(payload), payload)]
    parts = [replace(part, payload=packet.payload) for part in layout(stages, packet.shape, dtype)]
    expected = parts[-1].offset + parts[-1].size_bytes
    if size_bytes != expected:
        raise CodecError(f"codec {stages[-1]!r} needs {expected} bytes for shape {packet.shape}, not {size_bytes}")
    for part in parts:
        if part is parts[-1] or not part.stage.plain:  # a plain one that leads has left nothing
            part.stage.check(part.data, part.shape, dtype)
    return parts


def check_order(stages: Sequence[Stage]) -> None:
    """Raises UserError when these cannot follow each other in a chain."""
    if len(stages) > 1 and any(one.varies for one in stages):
        raise UserError("packets of several pieces have no other stage")
    for one in stages[:-1]:
        if not one.can_lead:
            raise UserError(f"codec {one!r} makes bytes, so that none can follow it in a chain")
    if not stages[-1].can_end:
        raise UserError(f"codec {stages[-1]!r} only picks values; another one, such as 'none', makes bytes of them")


def dtype_of(packet: Packet) -> torch.dtype:
    """The torch dtype of the decoded tensor. Raises CodecError when it is no float."""
    if packet.dtype not in FLOATS:
        raise CodecError(f"a packet of dtype {packet.dtype!r}; known are: {', '.join(FLOATS)}")
    return FLOATS[packet.dtype]


def name_of(dtype: torch.dtype) -> str:
    """The packet's word for a torch dtype. Raises CodecError when codecs do not take it."""
    name = str(dtype).removeprefix("torch.")
    if name not in FLOATS:
        raise CodecError(f"codecs take {', '.join(FLOATS)}, not {name}; convert the tensor")
    return name


def packet_bytes(stages: Sequence[Stage], shape: Sequence[int], dtype: torch.dtype) -> int:
    """The length in bytes of a packet that these stages write; shape and dtype: of the tensor."""
    last = layout(stages, tuple(shape), dtype)[-1]
    return len(header(tuple(s.stamp for s in stages), name_of(dtype), tuple(shape))) + last.offset + last.size_bytes


def header(stages: tuple[Stamp, ...], dtype: str, shape: Shape) -> bytes:
    """Its length, then the header."""
    body = msgspec.msgpack.encode(_Header(VERSION, stages, dtype, shape))
    return _PREFIX.pack(len(body)) + body
