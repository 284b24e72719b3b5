"""Large messages in parts, which go on over another connection where the last one broke off. No I/O of its own.

A sender puts one message after another, so a receiver has at most one unfinished message of each peer; it tells
what it has of it when the peer connects again.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import msgspec

from plesio.errors import WireError

PART_BYTES = 1 << 20
MAPPED_BYTES = 1 << 20


class Have(msgspec.Struct, frozen=True, array_like=True):
    """What arrived of an unfinished message."""

    id: str = ""
    size_bytes: int = 0


class Part(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A piece of a message, with its bytes as the frame's payload. `body` comes with the first piece only."""

    id: str
    offset: int
    total: int
    body: bytes = b""


class Outgoing(msgspec.Struct, frozen=True):
    """A message to be sent: its id is never used for other bytes."""

    id: str
    body: bytes
    payload: bytes | memoryview

    def parts(self, have: Have) -> Iterator[tuple[Part, memoryview]]:
        """What the peer, which has so much, still needs."""
        view = memoryview(self.payload).cast("B")
        at = have.size_bytes if have.id == self.id and 0 < have.size_bytes <= len(view) else 0
        while True:
            piece = view[at : at + PART_BYTES]
            yield Part(self.id, at, len(view), b"" if at else self.body), piece
            at += len(piece)
            if at >= len(view):
                return


class Assembler:
    """Puts one peer's parts together. Outlives the connection that they came on."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._id = ""
        self._body = b""
        self._memory = memoryview(b"")
        self._filled = 0

    @property
    def have(self) -> Have:
        """Of the unfinished message."""
        return Have(self._id, self._filled)

    def add(self, part: Part, piece: memoryview | None) -> tuple[bytes, memoryview] | None:
        """(body, payload) when the message is complete. Raises WireError for a part that does not follow."""
        size = len(piece) if piece is not None else 0
        if part.offset == 0:
            if not 0 <= part.total <= self.limit_bytes:
                raise WireError(f"a message of {part.total} bytes is over the limit of {self.limit_bytes}")
            self._id, self._body, self._filled = part.id, part.body, 0
            self._memory = _memory(part.total)
        elif part.id != self._id or part.offset != self._filled or part.total != len(self._memory):
            raise WireError("a part that does not follow the one before it")
        if self._filled + size > part.total or (size == 0 and self._filled < part.total):
            raise WireError("a part that is longer than its message, or empty")
        if piece is not None:
            self._memory[self._filled : self._filled + size] = piece
        self._filled += size
        if self._filled < part.total:
            return None
        done = (self._body, self._memory)
        self._id, self._body, self._memory, self._filled = "", b"", memoryview(b""), 0
        return done


def _memory(size_bytes: int) -> memoryview:
    """Writable memory. Large ones are mapped: no page is touched before its bytes arrive."""
    return memoryview(mmap.mmap(-1, size_bytes) if size_bytes >= MAPPED_BYTES else bytearray(size_bytes))
