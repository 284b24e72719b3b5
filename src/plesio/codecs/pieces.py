"""Pieces: one tensor's values, one behind the other, as several packets; each may be compressed once more.

What a vector of all parameters needs whose parts have codecs of their own, and what zstd makes smaller. Only packets name
this stage: codecs that send pieces make it. Payload: their count (4 bytes), for each its length, and its length before it
was compressed, or 0 (8 bytes each), then the pieces. A piece has no pieces.
Source of the compression: RFC 8878.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import zstandard
from torch import Tensor

from plesio.codecs.base import Stage
from plesio.codecs.packets import VERSION, Packet, Payload, Shape, dtype_of, opened, unopened
from plesio.codecs.reading import accumulate, decode, is_finite
from plesio.errors import CodecError

MOST_BESIDE = 512  # bytes of a packet that are not of its values; many tiny pieces must not swell either
MOST_A_VALUE = 5  # bytes beside its own dtype's, that a codec may need for a value: a scale and a code
_COUNT, _ROW = struct.Struct("<I"), struct.Struct("<QQ")


class Piece(NamedTuple):
    """data: of a packet, or of that compressed, which then had so many bytes before; 0: it is not compressed."""

    data: Payload
    before_bytes: int = 0


@dataclass(frozen=True, repr=False)
class Pieces(Stage):
    """See above."""

    name: ClassVar[str] = "pieces"
    varies: ClassVar[bool] = True
    can_lead: ClassVar[bool] = False

    def unpacked(self, payload: Payload, shape: Shape, dtype: torch.dtype) -> Payload:
        """See Stage.unpacked."""
        pieces = split(payload)
        numel = math.prod(shape)
        room = numel * (dtype.itemsize + MOST_A_VALUE) + MOST_BESIDE * len(pieces)
        if sum(piece.before_bytes for piece in pieces) > room:
            raise CodecError(f"a packet's pieces are too large for shape {shape}")
        plain = [_decompressed(piece) for piece in pieces]
        packets = [unopened(data) for data in plain]
        if any(packet.stages[0][0] == self.name for packet in packets):
            raise CodecError("a piece of a packet has pieces")
        for packet in packets:
            opened(packet)
        if any(dtype_of(packet) != dtype for packet in packets):
            raise CodecError("a piece of a packet has another dtype")
        if sum(math.prod(packet.shape) for packet in packets) != numel:
            raise CodecError(f"a packet's pieces do not make up shape {shape}")
        return payload if all(not piece.before_bytes for piece in pieces) else joined([Piece(data) for data in plain])

    def read(self, payload: Payload, numel: int, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        """See Stage.read."""
        start = 0
        for packet in _packets(payload):
            values = decode(packet).view(-1)
            yield start, values
            start += len(values)

    def read_into(self, payload: Payload, out: Tensor) -> None:
        """See Stage.read_into."""
        for packet, part in _places(payload, out):
            decode(packet, part)

    def add_into(self, payload: Payload, into: Tensor, weight: float, dtype: torch.dtype) -> None:
        """See Stage.add_into."""
        for packet, part in _places(payload, into):
            accumulate(packet, part, weight)

    def is_finite(self, payload: Payload, numel: int, dtype: torch.dtype) -> bool:
        """See Stage.is_finite."""
        return all(map(is_finite, _packets(payload)))


def pieces_of(packet: Packet) -> list[Piece]:
    """A packet's pieces; one that has none is one."""
    return split(packet.payload) if packet.stages[0][0] == Pieces.name else [Piece(packet.to_bytes())]


def packet_of(pieces: Sequence[Piece], dtype: str, shape: Shape) -> Packet:
    """The packet that they make."""
    return Packet(VERSION, (Pieces().stamp,), dtype, shape, joined(pieces))


def joined(pieces: Sequence[Piece]) -> bytes:
    """The payload."""
    rows = [_ROW.pack(len(piece.data), piece.before_bytes) for piece in pieces]
    return b"".join([_COUNT.pack(len(pieces)), *rows, *(piece.data for piece in pieces)])


def joined_bytes(sizes_bytes: Sequence[int]) -> int:
    """The length of the payload of pieces that are so long."""
    return _COUNT.size + len(sizes_bytes) * _ROW.size + sum(sizes_bytes)


def split(payload: Payload) -> list[Piece]:
    """The inverse of joined. Raises CodecError."""
    view = memoryview(payload)
    if len(view) < _COUNT.size:
        raise CodecError(f"a payload of {len(view)} bytes tells no number of pieces")
    at = _COUNT.size + _COUNT.unpack_from(view)[0] * _ROW.size
    if at > len(view):
        raise CodecError(f"a payload of {len(view)} bytes is too short for its pieces")
    rows = list(_ROW.iter_unpack(view[_COUNT.size : at]))
    if at + sum(size for size, _ in rows) != len(view):
        raise CodecError(f"a payload of {len(view)} bytes is not as long as its pieces")
    pieces = []
    for size, before in rows:
        pieces.append(Piece(view[at : at + size], before))
        at += size
    return pieces


def compressed(piece: Piece, level: int) -> Piece:
    """The same, smaller, if it gets so."""
    if piece.before_bytes:
        return piece
    found = zstandard.ZstdCompressor(level=level).compress(piece.data)
    return Piece(found, len(piece.data)) if len(found) < len(piece.data) else piece


def _decompressed(piece: Piece) -> Payload:
    if not piece.before_bytes:
        return piece.data
    try:  # the frame's own word for its length is checked first, so that no more is ever allocated
        told = zstandard.frame_content_size(piece.data)
        found = zstandard.ZstdDecompressor().decompress(piece.data) if told == piece.before_bytes else b""
    except zstandard.ZstdError as error:
        raise CodecError(f"a compressed piece of a packet is damaged: {error}") from error
    if len(found) != piece.before_bytes:
        raise CodecError(f"a piece of a packet had {piece.before_bytes} bytes before it was compressed, not {len(found)}")
    return found


def _packets(payload: Payload) -> list[Packet]:
    return [unopened(piece.data) for piece in split(payload)]


def _places(payload: Payload, flat: Tensor) -> Iterator[tuple[Packet, Tensor]]:
    """Each piece, and where its values are in flat: (numel,), in its shape."""
    start = 0
    for packet in _packets(payload):
        stop = start + math.prod(packet.shape)
        yield packet, flat[start:stop].view(packet.shape)
        start = stop
