"""The learner's side of the bulk channel: pushes and uploads out, versions in; both go on where a broken one stopped.

Used on the link's event loop only.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import msgspec

from plesio.errors import WireError
from plesio.runtime.tracks import Track
from plesio.wire import channel as wire
from plesio.wire import messages as m
from plesio.wire.parts import Assembler, Have, Outgoing, Part
from plesio.wire.timings import Kind

POLL_S = 0.005  # while it is measured when the peer's machine has all of a message
STATE_BYTES = 64 << 30  # the largest state that a learner accepts


class Bulk:
    """Owns what is to be sent, and what has come of the message that is coming.

    subscribe: makes the first message of a connection, from what is here of an unfinished one.
    """

    def __init__(
        self,
        on_message: Callable[[Any, memoryview | None], None],
        subscribe: Callable[[Have], m.Subscribe],
        sends: Track,
    ) -> None:
        self.on_message = on_message
        self.sends = sends
        self.subscribe = subscribe
        self.channel: wire.Channel | None = None
        self.wanted: dict[str, Outgoing] = {}  # until settled; in the order of sending
        self.queue: list[str] = []  # of these, what this connection has yet to send
        self.have: Have | None = None  # what the synchronizer has of one of them; None: not told yet
        self.coming = Assembler(STATE_BYTES)
        self.wake = asyncio.Event()
        self.bytes_per_s = 0.0  # that the link carried of late; 0: not known yet
        self._measuring: asyncio.Task[None] | None = None

    def connected(self, channel: wire.Channel) -> None:
        """A new connection: nothing is sent before the synchronizer has said what it has."""
        self.channel, self.have = channel, None
        channel.receive_into(self.coming.place)
        channel.send(m.encode(self.subscribe(self.coming.have)))

    def lost(self) -> None:
        """The connection ended."""
        self.channel = None

    def put(self, id: str, message: msgspec.Struct, payload: bytes) -> None:
        """To be sent, and sent again on every connection until it is settled. id: of these bytes only."""
        self.wanted[id] = Outgoing(id, m.encode(message), payload)
        self.queue.append(id)
        self.wake.set()

    def settle(self, ids: list[str]) -> None:
        """Need not be sent any more."""
        for id in ids:
            self.wanted.pop(id, None)

    def forget(self) -> None:
        """Nothing is outstanding."""
        self.wanted.clear()
        self.queue.clear()
        if self.channel is not None:
            self.channel.abort()

    def on_frame(self, channel: wire.Channel, body: bytes, payload: memoryview | None) -> None:
        """A frame of the synchronizer."""
        if channel is not self.channel:
            return
        message = m.decode("bulk", body)
        if isinstance(message, Part):
            whole = self.coming.add(message, payload)
            if whole is not None:
                self.on_message(m.decode("bulk", whole[0]), whole[1])
        elif isinstance(message, m.Subscribed):
            known = set(message.known)
            self.have = message.have
            self.queue = sorted((id for id in self.wanted if id not in known), key=lambda id: id != message.have.id)
            self.wake.set()
        else:
            self.on_message(message, payload)

    async def pump(self) -> None:
        """Sends what is queued, in order, whenever there is a connection; until cancelled."""
        while True:
            await self.wake.wait()
            self.wake.clear()
            while self.queue and self.channel is not None and self.have is not None:
                outgoing = self.wanted.get(self.queue.pop(0))
                if outgoing is not None:
                    with contextlib.suppress(WireError, OSError):
                        await self._send(self.channel, outgoing, self.have)

    async def _send(self, channel: wire.Channel, outgoing: Outgoing, have: Have) -> None:
        began_s, before_bytes = time.monotonic(), channel.bytes_sent
        for part, piece in outgoing.parts(have):
            await channel.send_bulk(m.encode(part), piece)
        if self._measuring is None or self._measuring.done():
            self._measuring = asyncio.create_task(self._measure(channel, began_s, before_bytes))
        seq = 0 if m.is_upload(outgoing.id) else int(outgoing.id.rpartition(".")[2])
        self.sends.add(Kind.SEND, began_s, time.monotonic() - began_s, seq)

    async def _measure(self, channel: wire.Channel, began_s: float, before_bytes: int) -> None:
        """How fast a message left: until the peer's machine had it all, since buffers on the way take much at once."""
        end_bytes = channel.bytes_sent
        while channel.bytes_sent - channel.undelivered_bytes() < end_bytes:
            await asyncio.sleep(POLL_S)
        found = (end_bytes - before_bytes) / max(time.monotonic() - began_s, 1e-6)
        self.bytes_per_s = (self.bytes_per_s + found) / 2 if self.bytes_per_s else found
