"""What waits for a slow learner: versions that say all take the place of each other, changes do not."""

from __future__ import annotations

import asyncio
from typing import Any

from plesio.records import Version
from plesio.runtime.subscriber import Subscriber
from plesio.runtime.tracks import Track
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
