"""Queues of messages and topics, with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import plesio
from plesio.errors import QueueFull, TaskCancelled, UserError, WireError
from plesio.runtime.hostsettings import running
from plesio.tasks import Client
from plesio.testing.poolcrew import children
from plesio.testing.waiting import wait_for

WAIT_S = 150.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pool")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    with plesio.connect(folder=folder, workers=1) as client:
        yield client


def test_messages_come_in_order_within_their_priority(client: Client) -> None:
    queue = client.queue("ordered")
    for i in range(20):
        queue.put(i, priority=i % 2)
    queue.put_many(["last"])
    assert len(queue) == 21 and queue.peek(3) == [1, 3, 5]
    messages = queue.get_many(100, WAIT_S)
    assert [m.value for m in messages] == [*range(1, 20, 2), *range(0, 20, 2), "last"]
    queue.ack_many(messages, wait=True)
    assert len(queue) == 0 and queue.get(timeout=0.05) is None


def test_what_waits_is_had_at_once_and_that_nothing_does_is_the_pools_word(client: Client) -> None:
    queue = client.queue("now")
    assert queue.get(timeout=0) is None and asyncio.run(queue.get_async(0)) is None
    queue.put_many("ab")
    for message in (queue.get(timeout=0), asyncio.run(queue.get_async(0))):
        assert message is not None and message.attempts == 0
        message.ack()
    assert queue.drain() == []


def test_a_pool_that_stands_still_for_a_while_is_not_taken_for_an_empty_queue(client: Client, folder: Path) -> None:
    queue = client.queue("still")
    host = running(folder)
    assert host is not None

    def tell(number: signal.Signals) -> None:
        for pid in children(host.pid):
            os.kill(pid, number)

    for take in (queue.drain, lambda: [message.value for message in asyncio.run(queue.get_many_async(3, 0))]):
        queue.put_many("abc")
        tell(signal.SIGSTOP)
        again = threading.Timer(0.5, tell, (signal.SIGCONT,))
        again.start()
        try:
            assert take() == ["a", "b", "c"]
        finally:
            again.join()


def test_what_is_given_back_comes_again_in_its_place(client: Client) -> None:
    queue = client.queue("again")
    queue.put_many("abc")
    first, second = queue.get(WAIT_S), queue.get(WAIT_S)
    assert first is not None and second is not None
    second.nack()
    first.nack()
    again = queue.get_many(3, WAIT_S)
    while len(again) < 3:
        again += queue.get_many(3, WAIT_S)
    assert [m.value for m in again] == ["a", "b", "c"] and [m.attempts for m in again] == [1, 1, 0]
    queue.ack_many(again)
    with pytest.raises(UserError, match="before"):
        again[0].ack()


def test_a_block_acknowledges_or_gives_back(client: Client) -> None:
    queue = client.queue("block")
    queue.put("x").result(WAIT_S)
    message = queue.get(WAIT_S)
    assert message is not None
    with pytest.raises(ZeroDivisionError), message as value:
        assert value == "x"
        raise ZeroDivisionError
    message = queue.get(WAIT_S)
    assert message is not None and message.attempts == 1
    with message:
        pass
    assert queue.get(timeout=0.05) is None


def test_a_full_queue_takes_no_more_until_there_is_room(client: Client) -> None:
    queue = client.queue("small", capacity=3)
    queue.put_many([1, 2, 3])
    fourth = queue.put(4)
    with pytest.raises(TimeoutError):
        fourth.result(0.3)
    assert len(queue) == 3

    taken: list[plesio.Future] = []

    def is_refused() -> bool:
        """Once it is known that there is no room; while the fourth is tried again that is not known."""
        try:
            if client._link._outbox.puts_off:
                taken.append(queue.put(5, block=False))
        except QueueFull:
            return True
        return False

    wait_for(is_refused, "it is full")
    for message in queue.get_many(2, WAIT_S):
        message.ack()
    for future in (fourth, *taken):
        future.result(WAIT_S)
    assert queue.drain() == [3, 4] + [5] * len(taken)


def test_a_paused_queue_keeps_what_is_put(client: Client) -> None:
    queue = client.queue("paused")
    queue.pause()
    queue.put("x").result(WAIT_S)
    assert queue.get(timeout=0.1) is None
    queue.pause(False)
    message = queue.get(WAIT_S)
    assert message is not None and message.value == "x"
    message.ack()
    queue.remove()


def test_every_subscription_has_each_message_and_a_slow_one_costs_the_others_nothing(client: Client) -> None:
    topic = client.topic("news")
    topic.publish("nobody hears this").result(WAIT_S)
    fast, slow = topic.subscribe("fast"), topic.subscribe("slow")
    for i in range(100):
        topic.publish(i)
    topic.publish(100).result(WAIT_S)
    assert fast.drain() == list(range(101)) and len(slow) == 101
    topic.unsubscribe("slow")
    topic.publish("more").result(WAIT_S)
    assert fast.drain() == ["more"]


def test_what_one_client_took_is_another_ones_when_it_is_gone(client: Client, folder: Path) -> None:
    queue = client.queue("left")
    queue.put_many(range(5))
    with plesio.connect(folder=folder) as other:
        held = other.queue("left").get_many(5, WAIT_S)
        assert len(held) == 5
        held[0].ack(wait=True)
    assert [m.value for m in queue.get_many(5, WAIT_S)] == [1, 2, 3, 4]


def test_an_event_loop_puts_and_takes_without_being_held_up(client: Client) -> None:
    queue = client.queue("loop")

    async def consume(count: int) -> list[int]:
        values = []
        async for message in queue:
            with message as value:
                values.append(value)
            if len(values) == count:
                break
        return values

    async def main() -> list[list[int]]:
        assert await queue.get_async(0.05) is None
        consumers = [asyncio.create_task(consume(10)) for _ in range(2)]
        await asyncio.sleep(0)
        await asyncio.gather(*(queue.put(i) for i in range(20)))
        return [await asyncio.wait_for(consumer, WAIT_S) for consumer in consumers]

    got = asyncio.run(main())
    assert sorted(got[0] + got[1]) == list(range(20)) and all(values == sorted(values) for values in got)


def test_what_came_for_a_wait_that_was_given_up_is_for_others(client: Client) -> None:
    queue = client.queue("given up")

    async def main() -> None:
        waiting = asyncio.create_task(queue.get_async())
        await asyncio.sleep(0.05)
        queue.put("x").result(WAIT_S)  # it comes while the loop looks at nothing else
        client.ask("counts")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    for _ in range(5):
        asyncio.run(main())
        message = queue.get(WAIT_S)
        assert message is not None and message.attempts == 1
        message.ack()


def test_who_awaits_something_of_a_client_that_is_closed_is_told(folder: Path) -> None:
    other = plesio.connect(folder=folder)
    queue = other.queue("never")

    async def main() -> None:
        task, message = other.submit("time:sleep", 60), asyncio.create_task(queue.get_async())
        waiting = asyncio.ensure_future(_result(task))
        await asyncio.sleep(0.05)
        task.cancel()
        other.cancel([task.name])
        await asyncio.to_thread(other.close)
        with pytest.raises(WireError, match="closed"):
            await asyncio.wait_for(message, WAIT_S)
        with pytest.raises((WireError, TaskCancelled)):
            await asyncio.wait_for(waiting, WAIT_S)

    asyncio.run(main())


async def _result(future: plesio.Future) -> object:
    return await future


def test_a_callback_that_raises_harms_nobody_else(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    def wrong(_: object) -> None:
        raise ValueError("the callback's own fault")

    future = client.submit("time:sleep", 0.1)
    future.add_done_callback(wrong)
    assert future.result(WAIT_S) is None and client.submit("time:sleep", 0).result(WAIT_S) is None
    assert "the callback's own fault" in capsys.readouterr().err
