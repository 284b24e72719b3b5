"""What the network between here and a run is like: measured with small probes, bounded in time and size.

It measures; `cli/checks.py` judges.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from statistics import median
from typing import Any

import msgspec

from plesio.errors import WireError
from plesio.runtime.viewer import CONNECT_S, Target, connect
from plesio.wire import channel as wire
from plesio.wire import messages as m

ROUND_TRIPS = 9
ANSWER_S = 10.0
FIRST_BYTES = 16 << 10
LONG_S = 0.25  # a probe that takes so long is large enough
MEASURE_S = 2.0  # each way
MEASURE_BYTES = 8 << 20  # each way


class Exchange(msgspec.Struct, frozen=True):
    """One probe and its answer. sent_unix_s: by our clock; elapsed_s: until the whole answer was here."""

    answer: m.Probed
    sent_unix_s: float
    elapsed_s: float
    up_bytes: int
    down_bytes: int


class Link(msgspec.Struct, frozen=True):
    """A link, measured. clock_ahead_s: how far the run's clock is before ours, give or take clock_error_s."""

    round_trip_s: float
    round_trip_max_s: float
    clock_ahead_s: float
    clock_error_s: float
    up_bytes_per_s: float
    down_bytes_per_s: float


class Prober:
    """A viewer's channel that asks one thing at a time. Owned by who opened it; see `open`."""

    def __init__(self) -> None:
        self._channel: wire.Channel | None = None
        self._answer: asyncio.Future[tuple[m.Probed, int]] | None = None
        self._number = 0
        self._lost = ""

    async def open(self, target: Target) -> None:
        """Raises as `wire.connect` does, and TimeoutError."""
        self._channel = await connect(target, self._on_message, self._on_close)

    def close(self) -> None:
        """Leaves."""
        if self._channel is not None:
            self._channel.close()

    async def ask(self, up_bytes: int = 0, down_bytes: int = 0) -> Exchange:
        """One exchange. Raises WireError when the other side closes, TimeoutError when it does not answer."""
        assert self._channel is not None
        if self._lost:
            raise WireError(self._lost)
        self._number += 1
        payload = os.urandom(up_bytes)
        self._answer = asyncio.get_running_loop().create_future()
        body = m.encode(m.Probe(self._number, down_bytes))
        sent_unix_s, began_s = time.time(), time.monotonic()
        async with asyncio.timeout(ANSWER_S):
            await self._channel.send_bulk(body, payload)
            answer, down_bytes = await self._answer
        return Exchange(answer, sent_unix_s, time.monotonic() - began_s, up_bytes, down_bytes)

    def _on_message(self, channel: wire.Channel, body: Any, payload: memoryview | None) -> None:
        message = m.decode("from", body)
        waits = self._answer
        if isinstance(message, m.Probed) and message.number == self._number and waits is not None and not waits.done():
            waits.set_result((message, len(payload or b"")))

    def _on_close(self, channel: wire.Channel, error: Exception | None) -> None:
        self._lost = f"it closed the connection{f': {error}' if error else ''}"
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(WireError(self._lost))
            self._answer.exception()  # seen, even if nobody waits for it any more


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name. Raises OSError, TimeoutError."""
    made = asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    found = await asyncio.wait_for(made, CONNECT_S)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def reach(host: str, port: int) -> None:
    """Connects, says nothing and closes. Raises OSError, TimeoutError."""
    _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), CONNECT_S)
    writer.close()


async def measure(prober: Prober) -> Link:
    """Round trips, the clocks, and both directions. Raises WireError, TimeoutError."""
    trips = [await prober.ask() for _ in range(ROUND_TRIPS)]
    ahead_s, error_s = clock_ahead_s(trips)
    shortest_s = min(t.elapsed_s for t in trips)
    up = await _sized(prober, up=True)
    down = await _sized(prober, up=False)
    return Link(
        round_trip_s=median(t.elapsed_s for t in trips),
        round_trip_max_s=max(t.elapsed_s for t in trips),
        clock_ahead_s=ahead_s,
        clock_error_s=error_s,
        up_bytes_per_s=bytes_per_s(up, shortest_s),
        down_bytes_per_s=bytes_per_s(down, shortest_s),
    )


async def _sized(prober: Prober, up: bool) -> list[Exchange]:
    """Probes that grow until one is long enough, then more of the same."""
    until_s, size, spent = time.monotonic() + MEASURE_S, FIRST_BYTES, 0
    done: list[Exchange] = []
    while not done or (time.monotonic() < until_s and spent + size <= MEASURE_BYTES):
        done.append(await prober.ask(up_bytes=size) if up else await prober.ask(down_bytes=size))
        spent += size
        if done[-1].elapsed_s < LONG_S:
            size = min(m.PROBE_BYTES, 2 * size)
    return done


def clock_ahead_s(exchanges: list[Exchange]) -> tuple[float, float]:
    """(how far the other clock is ahead, the largest error of that), from the shortest round trip.

    The answer was made at some time between sending and receiving, so half the round trip is the error (as in NTP).
    """
    best = min(exchanges, key=lambda x: x.elapsed_s)
    middle_s = best.sent_unix_s + best.elapsed_s / 2
    return best.answer.unix_s - middle_s, best.elapsed_s / 2


def bytes_per_s(exchanges: list[Exchange], round_trip_s: float) -> float:
    """What the largest of these say; the time of an empty probe is taken off, but never most of the time."""
    sizes = [x.up_bytes + x.down_bytes for x in exchanges]
    large = [x for x, size in zip(exchanges, sizes, strict=True) if size == max(sizes)]
    spent_s = sum(max(x.elapsed_s - round_trip_s, x.elapsed_s / 10) for x in large)
    return max(sizes) * len(large) / max(spent_s, 1e-9)
