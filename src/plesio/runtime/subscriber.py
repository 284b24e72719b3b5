"""The synchronizer's side of one learner's bulk connection: versions out, in order, from where the last one broke."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable

from plesio.runtime.tracks import Track
from plesio.wire import channel as wire
from plesio.wire import messages as m
from plesio.wire.parts import Have, Outgoing
from plesio.wire.timings import Kind

Offer = tuple[m.VersionMade, bytes]


class Subscriber:
    """Owns what waits to be sent on this connection. Used on the synchronizer's event loop only.

    source: names the process whose bytes these are; have: what the learner has of the message that was coming;
    sent: `sent` of its last connection.
    """

    def __init__(
        self, channel: wire.Channel, source: str, have: Have, sends: Track, sent: Iterable[Offer] = ()
    ) -> None:
        self.channel = channel
        self.source = source
        self.have = have
        self.sends = sends
        self.queue: deque[Offer] = deque()
        self.sent: deque[Offer] = deque(maxlen=2)  # or being sent: the last may be with the kernel only
        self.begun = next((x for x in sent if self.id(x[0]) == have.id), None)  # what broke off, and may go on
        self.wake = asyncio.Event()
        self.waits_for_state = True

    def offer(self, made: m.VersionMade, payload: bytes) -> None:
        """Queues a version. One that says all takes the place of those before it whose sending has not begun."""
        while made.kind == "params" and self.queue and self._replaceable(self.queue[-1][0]):
            made = m.instead(made, self.queue.pop()[0])
        self.queue.append((made, payload))
        self.wake.set()

    def _replaceable(self, made: m.VersionMade) -> bool:
        return made.kind == "params" and self.id(made) != self.have.id

    def id(self, made: m.VersionMade) -> str:
        """Names the bytes of this message."""
        return f"{self.source}.{made.kind}.{made.version.lineage}.{made.version.number}"

    async def pump(self) -> None:
        """Sends what is queued, in order, until the channel ends."""
        while True:
            await self.wake.wait()
            self.wake.clear()
            while self.queue:
                self.sent.append(self.queue.popleft())
                made, payload = self.sent[-1]
                outgoing = Outgoing(self.id(made), m.encode(made), payload)
                began_s = time.monotonic()
                for part, piece in outgoing.parts(self.have):
                    await self.channel.send_bulk(m.encode(part), piece)
                self.have = Have()
                self.sends.add(Kind.SEND, began_s, time.monotonic() - began_s, made.version.number)
