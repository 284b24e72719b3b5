"""Large messages in parts, which go on over another connection where the last one broke off. No I/O of its own.

A sender puts one message after another, so a receiver has at most one unfinished message of each peer; it tells
what it has of it when the peer connects again.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from plesio.errors import WireError
from plesio.wire.memory import Recycler

PART_BYTES = 1 << 20


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


_part = msgspec.msgpack.Decoder(Part)


class Assembler:
    """Puts one peer's parts together. Outlives the connection that they came on."""

    def __init__(self, limit_bytes: int, recycler: Recycler | None = None) -> None:
        self.limit_bytes = limit_bytes
        self.recycler = recycler or Recycler()
        self._id = ""
        self._body = b""
        self._memory = memoryview(b"")
        self._filled = 0
        self._placed: memoryview | None = None  # where the next piece is being received

    @property
    def have(self) -> Have:
        """Of the unfinished message."""
        return Have(self._id, self._filled)

    def place(self, body: bytes, size_bytes: int) -> memoryview | None:
        """For `Inbox.place`: where the piece of this part belongs; None when it is no part, or `add` will refuse it."""
        self._placed = None
        try:
            part = _part.decode(body)
            self._follow(part, size_bytes)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, WireError):
            return None
        self._placed = self._memory[part.offset : part.offset + size_bytes]
        return self._placed

    def add(self, part: Part, piece: memoryview | None) -> tuple[bytes, memoryview] | None:
        """(body, payload) when the message is complete. Raises WireError for a part that does not follow."""
        size = len(piece) if piece is not None else 0
        if piece is None or piece is not self._placed:
            self._follow(part, size)
            self._memory[part.offset : part.offset + size] = piece or b""
        self._placed = None
        self._filled += size
        if self._filled < part.total:
            return None
        done = (self._body, self._memory)
        self._id, self._body, self._memory, self._filled = "", b"", memoryview(b""), 0
        return done

    def _follow(self, part: Part, size: int) -> None:
        """Checks that it does; the first part of a message makes room for all of it."""
        if part.offset == 0:
            if not 0 <= part.total <= self.limit_bytes:
                raise WireError(f"a message of {part.total} bytes is over the limit of {self.limit_bytes}")
        elif part.id != self._id or part.offset != self._filled or part.total != len(self._memory):
            raise WireError("a part that does not follow the one before it")
        if part.offset + size > part.total or (size == 0 and part.offset < part.total):
            raise WireError("a part that is longer than its message, or empty")
        if part.offset == 0:
            self._id, self._body, self._filled = part.id, part.body, 0
            self._memory = memoryview(b"")  # may be what is given anew
            self._memory = self.recycler.get(part.total)
