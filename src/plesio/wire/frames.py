"""Frames: u32 body length, u64 payload length, body (one message), payload (raw tensor bytes). Pure."""

from __future__ import annotations

import struct

import msgspec

from plesio.errors import WireError

HEADER = struct.Struct("<IQ")


class Limits(msgspec.Struct, frozen=True):
    """What a peer may announce; more is refused before anything is allocated."""

    body_bytes: int = 16 << 20
    payload_bytes: int = 8 << 30


BEFORE_AUTH = Limits(4096, 0)


def header(body_bytes: int, payload_bytes: int) -> bytes:
    """The 12 bytes before a frame."""
    return HEADER.pack(body_bytes, payload_bytes)


def lengths(buffer: memoryview | bytes | bytearray, offset: int, limits: Limits) -> tuple[int, int]:
    """(body, payload) bytes of the frame at `offset`. Raises WireError beyond the limits."""
    body, payload = HEADER.unpack_from(buffer, offset)
    if body > limits.body_bytes or payload > limits.payload_bytes:
        raise WireError(f"a frame of {body} + {payload} bytes is over the limit")
    return body, payload
