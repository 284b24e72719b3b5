"""Frames: u32 body length, u64 payload length, body (one message), payload (raw tensor bytes). No I/O."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import msgspec

from plesio.errors import WireError
from plesio.wire.memory import fresh

HEADER = struct.Struct("<IQ")
INBOX_BYTES = 256 << 10


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
        if limits is BEFORE_AUTH and bytes(buffer[offset : offset + 2]) == b"\x16\x03":
            raise WireError("it speaks TLS, and this run does not: start the run with --tls, or leave it out there")
        raise WireError(f"a frame of {body} + {payload} bytes is over the limit")
    return body, payload


class Inbox:
    """Cuts a byte stream into frames. The reader fills `space()`, calls `received`, then exhausts `frames()`.

    A payload is received straight into its own memory: where `place` says, asked with the body and the payload's size,
    or a fresh one. `limits` may change between two frames.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.place: Callable[[bytes, int], memoryview | None] | None = None
        self._buffer = bytearray()
        self._start = self._end = 0
        self._wanted = HEADER.size  # bytes that the frame at _start needs in the buffer
        self._body = b""
        self._payload: memoryview | None = None
        self._filled = 0

    @property
    def unfinished(self) -> bool:
        """Is a part of a frame here whose rest is not?"""
        return self._payload is not None or self._end > self._start

    def space(self) -> memoryview:
        """Where the next bytes belong; never empty once `frames()` was exhausted."""
        if self._payload is not None:
            return self._payload[self._filled :]
        if self._start == self._end or self._start + self._wanted > len(self._buffer):
            self._make_room()
        return memoryview(self._buffer)[self._end :]

    def received(self, size: int) -> None:
        """`size` bytes were written to `space()`."""
        if self._payload is not None:
            self._filled += size
        else:
            self._end += size

    def frames(self) -> Iterator[tuple[bytes, memoryview | None]]:
        """The (body, payload) complete by now; payload None when the frame has none. Raises WireError."""
        while self._payload is not None or self._take_body():
            if self._payload is not None and self._filled < len(self._payload):
                return
            payload, self._payload = self._payload, None
            yield self._body, payload

    def _take_body(self) -> bool:
        """Moves the next body, and what has come of its payload, out of the buffer; False: not there yet."""
        have = self._end - self._start
        if have < HEADER.size:
            return False
        body, payload = lengths(self._buffer, self._start, self.limits)
        self._wanted = HEADER.size + body
        if have < self._wanted:
            return False
        view = memoryview(self._buffer)[self._start : self._end]
        self._body = bytes(view[HEADER.size : self._wanted])
        begun = view[self._wanted : self._wanted + payload]
        if payload:
            place = self.place(self._body, payload) if self.place is not None else None
            self._payload, self._filled = fresh(payload) if place is None else place, len(begun)
            self._payload[: len(begun)] = begun
        self._start += self._wanted + len(begun)
        self._wanted = HEADER.size
        return True

    def _make_room(self) -> None:
        """Moves what is left to the front of a buffer of the usual size, or of one that the frame fits in."""
        rest = self._buffer[self._start : self._end]
        size = max(self._wanted, min(INBOX_BYTES, HEADER.size + self.limits.body_bytes))
        if size != len(self._buffer):
            self._buffer = bytearray(size)
        self._buffer[: len(rest)] = rest
        self._start, self._end = 0, len(rest)
