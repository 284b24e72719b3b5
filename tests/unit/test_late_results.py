"""What a slot's thread for late results does beside all else, without a pool."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest

from plesio.core.pool import stimuli as s
from plesio.runtime.board import Board
from plesio.runtime.concurrent import Concurrent
from plesio.runtime.slot import Item, Slot, SlotSettings
from plesio.testing.waiting import wait_for
from plesio.values import encode_call
from plesio.wire.blocking import BlockingChannel


class Near(Slot):
    """A slot, connected to sockets of this process."""

    def __init__(self) -> None:
        super().__init__(SlotSettings("h", 1, "t", "s", "n", "i"), Board(), None)
        self.far: list[socket.socket] = []
        self.heard = asyncio.Event()
        self.connect()
        threading.Thread(target=self._send_late, daemon=True).start()

    def connect(self) -> None:
        own, far = socket.socketpair()
        with self.sending:
            self.channel = BlockingChannel(own)
        self.far.append(far)

    def listen(self, timeout_s: float) -> None:
        assert self.channel is not None
        for _ in self.channel.wait(timeout_s):
            self.heard.set()


def item(id: int, fn: str) -> Item:
    return Item(id, fn, 0.0, encode_call((), {})[0], (), 1)


def test_results_go_out_while_the_next_task_runs() -> None:
    slot = Near()
    slot.far[0].settimeout(60)
    slot.keep(7, b"x")
    slot.functions.get = lambda fn: lambda: slot.far[0].recv(1000)  # type: ignore[method-assign,assignment]
    slot.run_item(item(8, "reads"))
    assert slot.ids == [8] and [m.ids for m in slot.sent if isinstance(m, s.Finished)] == [(7,)]


def test_who_runs_coroutines_hears_the_next_connection_when_the_thread_met_the_end_of_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slot = Near()

    async def waits() -> str:
        async with asyncio.timeout(60):
            while len(slot.far) < 2:
                await asyncio.sleep(0.01)
            BlockingChannel(slot.far[1]).send(b"go")
            await slot.heard.wait()
        return "heard"

    def blocks() -> None:
        """As a plain function does; meanwhile the other side goes, and the thread finds that out."""
        slot.far[0].close()
        slot.keep(9, b"z")  # what was kept before may have been sent before
        slot.late.set()
        wait_for(lambda: slot.channel is not None and slot.channel.closed, "the thread sends", 60)

    functions: dict[str, Any] = {"waits": waits, "blocks": blocks}
    monkeypatch.setattr(slot.functions, "get", functions.__getitem__)
    slot.modes = {"waits": True, "blocks": False}
    slot.todo.append(item(2, "blocks"))
    slot.keep(7, b"x")
    running = Concurrent(slot)
    slot.concurrent = running
    running.run(item(1, "waits"))
    finished = [m.ids for m in slot.sent if isinstance(m, s.Finished)]
    assert sorted(id for ids in finished for id in ids) == [1, 2, 7, 9] and len(slot.far) == 2


def test_what_cannot_be_sent_ends_the_connection_and_not_the_thread() -> None:
    slot = Near()
    slot.keep(7, object())  # type: ignore[arg-type]  # nothing that can be written
    slot.late.set()
    wait_for(lambda: slot.channel is not None and slot.channel.closed, "the thread gives it up", 60)
    slot.sent.clear()
    slot.connect()
    slot.keep(8, b"y")
    slot.late.set()
    wait_for(lambda: slot.sent, "the thread goes on", 60)
