"""What waits for a slow learner: versions that say all take the place of each other, changes do not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import torch

from plesio.core.spec import RunSpec
from plesio.records import Version
from plesio.runtime.fragments import Layout, pack_state
from plesio.runtime.outerstate import OuterState
from plesio.runtime.subscriber import Subscriber
from plesio.runtime.synchronizer import HISTORY, Synchronizer
from plesio.runtime.tracks import Track
from plesio.strategies.text import parse
from plesio.wire import messages as m
from plesio.wire.parts import Have


def waiting(kinds: list[str], have: Have | None = None) -> list[m.VersionMade]:
    async def offer() -> list[m.VersionMade]:
        channel: Any = None
        subscriber = Subscriber(channel, "s", have or Have(), Track())
        for number, kind in enumerate(kinds, 1):
            evaluator, buffers = ("a", b"1234") if number == 2 else ("", b"")
            subscriber.offer(m.VersionMade(Version(1, number), kind, {}, evaluator=evaluator, buffers=buffers), b"")
        return [made for made, _ in subscriber.queue]

    return asyncio.run(offer())


def test_the_newest_parameters_take_the_place_of_older_ones_with_what_those_asked_for() -> None:
    (left,) = waiting(["params", "params", "params"])
    assert left.version.number == 3 and left.evaluator == "a" and left.buffers == b"1234"


def test_changes_are_all_sent_in_order() -> None:
    assert [x.version.number for x in waiting(["delta", "delta", "params", "delta", "params", "params"])] == [
        1,
        2,
        3,
        4,
        6,
    ]


def test_a_version_whose_sending_broke_off_goes_on() -> None:
    begun = Have("s.params.1.1", 10)
    assert [x.version.number for x in waiting(["params", "params", "params"], begun)] == [1, 3]


class Line:
    """In place of a channel: what is said is lost, and bulk data gets stuck."""

    def accept_frames(self, limits: Any) -> None: ...

    def receive_into(self, place: Any) -> None: ...

    def send(self, body: bytes) -> None: ...

    def abort(self) -> None: ...

    async def send_bulk(self, body: bytes, piece: Any) -> None:
        await asyncio.Event().wait()


def made(number: int) -> tuple[m.VersionMade, bytes]:
    return m.VersionMade(Version(1, number), "params", {}), b"all of it"


def test_parameters_whose_sending_broke_off_go_on_though_many_newer_ones_were_made() -> None:
    """Else a learner whose connections live for less than a transfer would begin anew for ever."""

    async def main() -> None:
        server = Synchronizer(Path(), "token", "y")
        server.spec, server.lineage = RunSpec(run="r", learners=1, schedule=parse("async")), 1
        server.outer = OuterState("none")
        layout = Layout(["w"], [(3,)], torch.float32)
        server.outer.load(pack_state(layout, torch.zeros(3), {}))
        server.seats.admit("a", 1, "i")

        async def connect(have: Have) -> list[int]:
            channel: Any = Line()
            server._subscribe(channel, m.Subscribe("a", 1, Version(1, 1), "i", have))
            return [x.version.number for x, _ in server.subscribers["a"].queue]

        def make(number: int) -> None:
            server.version = Version(1, number)
            server.history.append(made(number))
            for subscriber in server.subscribers.values():
                server._offer_version(subscriber, *made(number))

        make(2)
        assert await connect(Have()) == [2]
        await asyncio.sleep(0)  # it is being sent now
        assert not server.subscribers["a"].queue
        for number in range(3, 3 + 2 * HISTORY):
            make(number)
        newest = 2 + 2 * HISTORY
        assert await connect(Have("y.params.1.2", 5)) == [2, newest]
        assert await connect(Have()) == [newest], "of which nothing is there goes no further"
        for pump in server.pumps.values():
            pump.cancel()

    asyncio.run(main())
