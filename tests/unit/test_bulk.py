"""What a learner's bulk channel knows of its link: buffers on the way do not count as the peer."""

from __future__ import annotations

import asyncio
from typing import Any

from plesio.runtime.bulk import POLL_S, Bulk
from plesio.runtime.tracks import Track
from plesio.wire import messages as m
from plesio.wire.parts import Have

POLLS = 10
SIZE_BYTES = 3 << 20


class Buffered:
    """A channel that takes everything at once, and of which the peer has everything after some looks."""

    def __init__(self) -> None:
        self.bytes_sent = 0
        self.looks = 0

    async def send_bulk(self, body: bytes, payload: memoryview) -> None:
        self.bytes_sent += len(payload)

    def undelivered_bytes(self) -> int:
        self.looks += 1
        return self.bytes_sent * (POLLS - min(self.looks, POLLS)) // POLLS


def test_a_message_has_left_when_the_peer_s_machine_has_it() -> None:
    async def main() -> None:
        bulk = Bulk(lambda *_: None, lambda have: m.Subscribe("a", 1, None, have=have), Track())
        channel: Any = Buffered()
        bulk.channel, bulk.have = channel, Have()
        pump = asyncio.create_task(bulk.pump())
        bulk.put(m.push_id(1, 1), m.SynchronizerAt("any message", 1), bytes(SIZE_BYTES))
        while not bulk.bytes_per_s:
            await asyncio.sleep(0.001)
        pump.cancel()
        assert 0 < bulk.bytes_per_s <= SIZE_BYTES / ((POLLS - 1) * POLL_S)

    asyncio.run(asyncio.wait_for(main(), 60.0))
