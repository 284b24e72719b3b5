"""Packets: a tensor as bytes that name how to read them. The contract of codecs, and the receiver's side.

A packet names its stages, so a receiver needs only the registry: no codec object, no state, no pickle. Work
goes in chunks of 256k values through reused buffers, which stay in cache. Numbers are in the byte order of
the host, little-endian in practice. It does not move, checksum or encrypt bytes: that is `wire`.
"""

from __future__ import annotations

import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from typing import Annotated, Any, ClassVar, Protocol

import msgspec
import numpy as np
import torch
from torch import Tensor

from plesio import registry
from plesio.errors import CodecError, UserError

VERSION = 1
CHUNK = 1 << 18  # values a step
MAX_HEADER_BYTES = 4096
MAX_VALUES = 1 << 40
FLOATS = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

Payload = bytes | memoryview
Stamp = tuple[str, tuple[int, ...]]  # a stage's registered name and its arguments
_Extent = Annotated[int, msgspec.Meta(ge=0, le=MAX_VALUES)]
_PREFIX = struct.Struct("<I")  # the header's length


class _Header(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    version: int
    stages: Annotated[tuple[Stamp, ...], msgspec.Meta(min_length=1, max_length=8)]
    dtype: str
    shape: Annotated[tuple[_Extent, ...], msgspec.Meta(max_length=32)]


_read_header = msgspec.msgpack.Decoder(_Header).decode


class Packet(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One encoded tensor. The last stage wrote the payload; those before it only changed values.

    dtype: of the tensor that was encoded, and of the one decoded; a key of FLOATS.
    """

    version: int
    stages: tuple[Stamp, ...]
    dtype: str
    shape: tuple[int, ...]
    payload: Payload

    def to_bytes(self) -> bytes:
        """Header length (4 bytes), header (msgpack), payload. Copies the payload once."""
        return b"".join((_header(self.stages, self.dtype, self.shape), self.payload))

    @classmethod
    def from_bytes(cls, buffer: bytes | bytearray | memoryview) -> Packet:
        """The inverse of to_bytes; what it returns decodes. The payload is a view: keep the buffer unchanged.

        Raises CodecError on any other bytes. Allocates no more than a small multiple of their length.
        """
        view = memoryview(buffer).cast("B")
        if len(view) < _PREFIX.size:
            raise CodecError(f"a packet of {len(view)} bytes has no header")
        end = _PREFIX.size + _PREFIX.unpack_from(view)[0]
        if end > min(len(view), MAX_HEADER_BYTES):
            raise CodecError(f"a packet of {len(view)} bytes claims a header that ends at byte {end}")
        try:
            header = _read_header(view[_PREFIX.size : end])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CodecError(f"a packet's header is malformed: {error}") from error
        packet = cls(header.version, header.stages, header.dtype, header.shape, view[end:])
        _reader(packet)
        return packet


class Codec(Protocol):
    """Tensors to packets, with explicit state. Codecs are frozen; `repr` gives what `parse` reads."""

    @property
    def needs_feedback(self) -> bool:
        """Does it lose something that ErrorFeedback would keep?"""

    def init(self, like: Tensor) -> Any:
        """The state before the first tensor. like: any shape. None for a stateless codec."""

    def encode(self, tensor: Tensor, state: Any) -> tuple[Packet, Any]:
        """The packet and the next state; tensor (any shape, strides, device) and state stay as they were.

        Raises CodecError for a dtype outside FLOATS and for values that the codec cannot carry.
        """

    def wire_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """The exact length of `encode(...)[0].to_bytes()` for that shape and dtype."""


class Stage(ABC):
    """A registered codec: stateless, elementwise in order, and readable in chunks.

    Subclasses are frozen dataclasses of ints, and those ints are what a packet carries of them; one out of
    range raises UserError.
    """

    name: ClassVar[str]  # as registered
    needs_feedback: ClassVar[bool] = True
    always_finite: ClassVar[bool] = False  # does `check` refuse what would be read as NaN or Inf?

    @property
    def stamp(self) -> Stamp:
        """What a packet says of this stage."""
        return self.name, astuple(self)  # type: ignore[call-overload]

    def __repr__(self) -> str:
        arguments = ", ".join(map(str, self.stamp[1]))
        return self.name if self == type(self)() else f"{self.name}({arguments})"

    def init(self, like: Tensor) -> None:
        """None: stateless. like: any shape."""
        return None

    def encode(self, tensor: Tensor, state: None = None) -> tuple[Packet, None]:
        """See Codec.encode."""
        dtype = name_of(tensor.dtype)
        payload = torch.empty(self.payload_bytes(tensor.numel(), tensor.dtype), dtype=torch.uint8)
        self.write(tensor.detach().reshape(-1), payload)
        return Packet(VERSION, (self.stamp,), dtype, tuple(tensor.shape), payload.numpy().data), None

    def wire_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """See Codec.wire_bytes."""
        return packet_bytes([self], shape, dtype)

    @abstractmethod
    def payload_bytes(self, numel: int, dtype: torch.dtype) -> int:
        """The exact length of the payload for so many values of that dtype."""

    @abstractmethod
    def write(self, flat: Tensor, payload: Tensor) -> None:
        """Fills payload: (payload_bytes,) uint8, from flat: (numel,). CodecError for what will not go."""

    @abstractmethod
    def read(self, payload: Payload, numel: int, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        """(start, values: (k,) of dtype) in order; values last until the next step. The length is right."""

    def check(self, payload: Payload, numel: int, dtype: torch.dtype) -> None:
        """Raises CodecError when a payload of the right length cannot be read. By default all can."""
        return None


def stage(name: str, arguments: tuple[int, ...]) -> Stage:
    """The registered codec of that name. Raises UnknownName, or UserError for wrong arguments."""
    kind = registry.load(registry.CODECS, "codec", name)
    try:
        made: Stage = kind(*arguments)
    except TypeError:
        raise UserError(f"codec {name!r} does not take {arguments}; its default is {kind()!r}") from None
    return made


def decode(packet: Packet) -> Tensor:
    """A new CPU tensor of the packet's shape and dtype. Raises CodecError when the packet is inconsistent."""
    chunks = _reader(packet)  # checks before anything is allocated
    out = torch.empty(packet.shape, dtype=dtype_of(packet))
    flat = out.view(-1)
    for start, values in chunks:
        flat[start : start + len(values)] = values
    return out


def accumulate(packet: Packet, into: Tensor, weight: float) -> None:
    """into += weight * decode(packet), in chunks. into: the packet's shape, any float dtype and device.

    Raises CodecError for another shape or an inconsistent packet; `into` is then unchanged.
    """
    if tuple(into.shape) != packet.shape:
        raise CodecError(f"a packet of shape {packet.shape} cannot be added into shape {tuple(into.shape)}")
    if not into.is_contiguous():
        into.detach().add_(decode(packet).to(into.device), alpha=weight)
        return
    flat = into.detach().view(-1)
    for start, values in _reader(packet):
        flat[start : start + len(values)].add_(values.to(into.device), alpha=weight)


def is_finite(packet: Packet) -> bool:
    """Does it decode to finite values only? Raises CodecError when the packet is inconsistent."""
    chunks = _reader(packet)
    if stage(*packet.stages[-1]).always_finite:
        return True
    return all(bool(values.isfinite().all()) for _, values in chunks)


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
    stamps = tuple(s.stamp for s in stages)
    header = _header(stamps, name_of(dtype), tuple(shape))
    return len(header) + stages[-1].payload_bytes(math.prod(shape), dtype)


def fill(out: Tensor, payload: Payload, offset_bytes: int) -> Tensor:
    """Copies payload bytes into out: (k,), contiguous; returns it. Payloads may be unaligned, read-only."""
    raw = out.view(torch.uint8).numpy()
    raw[:] = np.frombuffer(payload, np.uint8, raw.size, offset_bytes)
    return out


def _header(stages: tuple[Stamp, ...], dtype: str, shape: tuple[int, ...]) -> bytes:
    body = msgspec.msgpack.encode(_Header(VERSION, stages, dtype, shape))
    return _PREFIX.pack(len(body)) + body


def _reader(packet: Packet) -> Iterator[tuple[int, Tensor]]:
    """The chunks of a packet, once all that could fail has been checked."""
    dtype = dtype_of(packet)
    numel = math.prod(packet.shape)
    if packet.version != VERSION:
        raise CodecError(f"a packet of version {packet.version}; this plesio reads version {VERSION}")
    if math.prod(max(d, 1) for d in packet.shape) > MAX_VALUES:
        raise CodecError(f"a packet of shape {packet.shape} is larger than {MAX_VALUES} values")
    try:
        last = [stage(*stamp) for stamp in packet.stages][-1]
    except UserError as error:
        raise CodecError(f"a packet cannot be read: {error}") from error
    expected = last.payload_bytes(numel, dtype)
    if len(packet.payload) != expected:
        found = len(packet.payload)
        raise CodecError(f"codec {last!r} needs {expected} bytes for shape {packet.shape}, not {found}")
    last.check(packet.payload, numel, dtype)
    return last.read(packet.payload, numel, dtype)
