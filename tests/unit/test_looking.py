"""Looking once more before going to sleep: nothing is missed, and who is idle is left to sleep."""

from __future__ import annotations

import asyncio
import selectors
import socket

import pytest

from plesio.wire import looking
from plesio.wire.blocking import PATIENCE_S, BlockingChannel
from plesio.wire.frames import HEADER
from plesio.wire.looking import LookingSelector, look, looking_loop


def test_it_looks_until_there_is_something_or_its_time_is_up() -> None:
    answers = iter(["", "", "here"])
    assert look(lambda: next(answers), 60.0) == "here"
    assert look(lambda: "", 0.0) is None


def test_who_looks_in_vain_looks_less_and_who_finds_something_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    there = ""

    def count(at: object, for_s: float) -> str:
        nonlocal looks
        looks += 1
        return there

    monkeypatch.setattr(looking, "look", count)
    looker = looking.Looker()
    for _ in range(1000):
        assert not looker.look(lambda: "", 1.0)
    assert looks < 50
    assert looker.look(lambda: "there before", 1.0) in ("there before", None)
    there, looks = "found", 0
    found = [looker.look(lambda: "", 1.0) for _ in range(1000)]
    assert looks > 700 and found[-1] == "found" and found.count("found") == looks


def test_a_selector_looks_only_where_something_came_a_moment_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []

    def count(at: object, for_s: float) -> None:
        looks.append(for_s)

    monkeypatch.setattr(looking, "look", count)
    ours, theirs = socket.socketpair()
    with ours, theirs, LookingSelector() as selector:
        selector.register(ours, selectors.EVENT_READ)
        assert selector.select(0.001) == [] and selector.select(0.001) == [] and not looks
        theirs.send(b"x")
        assert [key.fileobj for key, _ in selector.select(60.0)] == [ours] and ours.recv(1) == b"x"
        assert selector.select(0.0001) == [] and looks == [0.0001]
        assert selector.select(0.0001) == [] and len(looks) == 1


def test_an_event_loop_that_looks_runs_as_any_other() -> None:
    async def main() -> list[int]:
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(b"ping")
        asyncio.get_running_loop().call_later(0.002, theirs.send, b"pong")
        answer = await asyncio.wait_for(reader.readexactly(4), 60)
        writer.close()
        return list(answer)

    ours, theirs = socket.socketpair()
    with theirs, asyncio.Runner(loop_factory=looking_loop) as runner:
        assert bytes(runner.run(main())) == b"pong"


def test_a_channel_that_looks_gives_every_frame_and_notices_the_end() -> None:
    ours, theirs = socket.socketpair()
    channel = BlockingChannel(ours)
    channel.patient = True
    with theirs:
        ours.settimeout(60)
        for n in range(3):
            theirs.sendall(HEADER.pack(1, 0) + bytes([n]))
            assert channel.wait(PATIENCE_S) == [bytes([n])]
    with pytest.raises(Exception, match="closed"):
        channel.wait(PATIENCE_S)
