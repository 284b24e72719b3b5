"""Locks, semaphores, counters, barriers and events, with real processes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import pytest

from plesio.errors import LeaseLost, UserError, WireError, WouldDeadlock
from plesio.tasks import Client
from plesio.tasks.counters import Barrier
from plesio.tasks.locks import Held, Lock
from plesio.testing import lockstorm
from plesio.testing.poolcrew import PoolCrew
from plesio.testing.waiting import wait_for

WAIT_S = 150.0
HOLDER = """
import sys
from pathlib import Path
from plesio.errors import LeaseLost
from plesio.tasks.client import Client
from plesio.tasks.dialling import Address
from plesio.tasks.link import Link

port, token, name = sys.argv[1:]
link = Link(Address("127.0.0.1", int(port), token))
link.open()
client = Client(link)
held = client.lock(name).acquire()
print(held.token, flush=True)
for word in sys.stdin:
    try:
        if word == "check\\n":
            held.check()
        elif word == "add\\n":
            client.counter(name).add(1, fence=held)
        elif word == "put\\n":
            client.counter(name).compare_and_set(0, 100, fence=held)
        elif word == "release\\n":
            held.release()
        print("done", flush=True)
    except LeaseLost:
        print("lost", flush=True)
"""


class Holder:
    """Another process that holds a lock and does as it is told."""

    def __init__(self, crew: PoolCrew, name: str) -> None:
        words = [sys.executable, "-c", HOLDER, str(crew.port), crew.token, name]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.token = int(self._heard())

    def ask(self, word: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self._heard()

    def _heard(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolCrew]:
    with PoolCrew(tmp_path_factory.mktemp("pool")) as crew:
        yield crew


@pytest.fixture
def client(crew: PoolCrew) -> Iterator[Client]:
    with crew.client() as client:
        yield client


def in_thread(work: Callable[[], object]) -> Callable[[], object]:
    """Begins it elsewhere; the result gives what it returned or raised."""
    got: list[object] = []

    def run() -> None:
        try:
            got.append(work())
        except Exception as error:
            got.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result() -> object:
        thread.join(WAIT_S)
        assert got, "it did not end"
        return got[0]

    return result


def waiting(client: Client, name: str) -> int:
    return sum(len(row["waiting"]) for row in client.ask("locks") if row["name"] == name)


def test_threads_of_a_program_exclude_each_other(client: Client) -> None:
    inside, most, lock = [0], [0], client.lock("threads")

    def work() -> None:
        for _ in range(20):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    for result in [in_thread(work) for _ in range(4)]:
        assert result() is None
    assert most == [1]


def test_a_wait_is_granted_in_order_with_greater_tokens(client: Client, crew: PoolCrew) -> None:
    first = client.lock("order").acquire()
    with crew.client() as other:
        order: list[str] = []

        def work(who: Client, name: str) -> int:
            with who.lock("order") as held:
                order.append(name)
                return held.token

        results = []
        for i, who in enumerate((other, client, other)):
            results.append(in_thread(lambda who=who, i=i: work(who, str(i))))
            wait_for(lambda i=i: waiting(client, "order") == i + 1, "it waits")
        first.release()
        tokens = [result() for result in results]
    assert order == ["0", "1", "2"] and [first.token, *tokens] == sorted([first.token, *tokens])


def test_what_is_not_free_is_refused_at_once_or_after_a_while(client: Client) -> None:
    with client.lock("busy"):
        for timeout in (0, 0.05):
            result = in_thread(lambda timeout=timeout: client.lock("busy").acquire(timeout))()
            assert isinstance(result, TimeoutError) and "lock 'busy'" in str(result)
        assert waiting(client, "busy") == 0
    client.lock("busy").acquire(0).release()


def test_readers_share_and_a_waiting_writer_has_its_turn(client: Client) -> None:
    lock = client.rwlock("rw")
    reads = [in_thread(lambda: lock.read().acquire()), in_thread(lambda: lock.read().acquire())]
    held = [result() for result in reads]
    write = in_thread(lambda: lock.write().acquire())
    wait_for(lambda: waiting(client, "rw") == 1, "the writer waits")
    late = in_thread(lambda: lock.read().acquire())
    wait_for(lambda: waiting(client, "rw") == 2, "the reader waits behind it")
    for one in held:
        assert isinstance(one, Held)
        one.release()
    writer = write()
    assert isinstance(writer, Held) and waiting(client, "rw") == 1
    writer.release()
    reader = late()
    assert isinstance(reader, Held)
    reader.release()


def test_a_semaphore_has_so_many_parts(client: Client) -> None:
    parts = client.semaphore("parts", 2)
    with parts, parts:
        assert isinstance(in_thread(lambda: client.semaphore("parts", 2).acquire(0))(), TimeoutError)
        with pytest.raises(UserError, match="is for 2"):
            client.semaphore("parts", 3).acquire()
    client.semaphore("parts", 3).acquire().release()


def test_a_counter_counts_each_change_once(client: Client) -> None:
    counter = client.counter("n")
    for result in [in_thread(lambda: [counter.add() for _ in range(50)]) for _ in range(4)]:
        result()
    assert counter.get() == 200 and counter.compare_and_set(200, 7) and not counter.compare_and_set(200, 8)
    assert counter.add(-7) == 0
    with pytest.raises(UserError, match="the largest"):
        counter.add(1 << 62)
        counter.add(1)


def test_all_parties_leave_a_barrier_together(client: Client, crew: PoolCrew) -> None:
    with crew.client() as other:
        for generation in range(3):
            first = in_thread(lambda: client.barrier("bar", 2).wait(WAIT_S))
            assert other.barrier("bar", 2).wait(WAIT_S) == generation == first()
    with pytest.raises(TimeoutError):
        client.barrier("bar", 2).wait(0.05)
    assert waiting(client, "bar") == 0


def test_a_party_that_gave_up_is_none_and_one_that_counted_is_told(client: Client, crew: PoolCrew) -> None:
    def times(passed: list[int]) -> Iterator[int]:
        """150, and on until they met once: both of them know when they have."""
        until_s = time.monotonic() + WAIT_S
        return takewhile(lambda i: i < 150 or (not passed and time.monotonic() < until_s), count())

    def visit(barrier: Barrier) -> list[int]:
        passed: list[int] = []
        for i in times(passed):
            with contextlib.suppress(TimeoutError):
                passed.append(barrier.wait(0.0002 * (i % 5 + 1)))
        return passed

    async def visit_async(barrier: Barrier) -> list[int]:
        passed: list[int] = []
        for i in times(passed):
            with contextlib.suppress(TimeoutError):
                passed.append(await barrier.wait_async(0.0002 * (i % 5 + 1)))
        return passed

    with crew.client() as other:
        for name, work in (("hasty", visit), ("looped", lambda barrier: asyncio.run(visit_async(barrier)))):
            first = in_thread(lambda name=name, work=work: work(client.barrier(name, 2)))  # type: ignore[misc]
            assert visit(other.barrier(name, 2)) == first() != []
    assert waiting(client, "hasty") == waiting(client, "looped") == 0


def test_an_event_wakes_all_who_wait(client: Client) -> None:
    event = client.event("go")
    assert not event.is_set() and not event.wait(0) and not event.wait(0.05)
    results = [in_thread(lambda: client.event("go").wait(WAIT_S)) for _ in range(3)]
    wait_for(lambda: waiting(client, "go") == 3, "they wait")
    event.set()
    assert [result() for result in results] == [True] * 3 and event.wait(0) and event.is_set()
    event.clear()
    assert not event.wait(0)


def test_an_event_loop_waits_without_being_held_up(client: Client) -> None:
    inside = 0

    async def work(lock: Lock) -> int:
        nonlocal inside
        async with lock as held:
            await held.check_async()
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            inside -= 1
            return await client.counter("loop").add_async(1, fence=held)

    async def main() -> None:
        values = await asyncio.gather(*(work(client.lock("loop")) for _ in range(10)))
        assert sorted(values) == list(range(1, 11)) and await client.counter("loop").get_async() == 10
        assert await client.counter("loop").compare_and_set_async(10, 11)
        waits = [client.barrier("loop", 2).wait_async() for _ in range(2)]
        assert await asyncio.gather(*waits) == [0, 0]
        event = client.event("loop")
        waiter = asyncio.create_task(event.wait_async())
        assert not await event.wait_async(0.02)
        await event.set_async()
        assert await asyncio.wait_for(waiter, WAIT_S) and await event.is_set_async()
        await event.clear_async()

    asyncio.run(main())


def test_a_task_that_is_cancelled_holds_nothing_and_waits_for_nothing(client: Client) -> None:
    async def main() -> None:
        lock = client.lock("cancelled")
        held = await lock.acquire_async()
        waiter = asyncio.create_task(lock.acquire_async())
        await asyncio.to_thread(wait_for, lambda: waiting(client, "cancelled") == 1, "it waits")
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        await held.release_async()
        await (await lock.acquire_async(WAIT_S)).release_async()

    for _ in range(3):
        asyncio.run(main())


def test_a_wait_that_would_close_a_cycle_is_refused_by_name(client: Client, crew: PoolCrew) -> None:
    def crossing() -> None:
        with client.lock("a"), client.rwlock("b").write():
            pass

    with crew.client() as other:
        read = other.rwlock("b").read().acquire()
        thread = in_thread(crossing)
        wait_for(lambda: waiting(client, "b") == 1, "it holds a and waits for b")
        with pytest.raises(WouldDeadlock, match=r"for lock 'a', which .* holds; .* for rwlock 'b', which .*MainThread"):
            other.lock("a").acquire()
        assert isinstance(in_thread(lambda: other.lock("a").acquire(0.05))(), TimeoutError)  # another thread may
        read.release()
        assert thread() is None


def test_what_a_thread_holds_it_may_not_wait_for(client: Client) -> None:
    lock = client.rwlock("mine")
    with lock.read(), pytest.raises(WouldDeadlock, match=r"'mine', which client .* holds"):
        lock.write().acquire()
    with client.lock("mine") as held, pytest.raises(WouldDeadlock):
        client.lock("mine").acquire()
    with pytest.raises(UserError, match="before"):
        held.release()
    with pytest.raises(UserError, match="does not hold"):
        client.lock("mine").release()


def test_a_paused_holder_that_wakes_after_its_lease_is_refused_by_its_token(client: Client, crew: PoolCrew) -> None:
    with Holder(crew, "paused") as holder:
        assert holder.ask("check") == "done" and holder.ask("add") == "done"
        holder.process.send_signal(signal.SIGSTOP)
        with client.lock("paused") as held:
            assert held.token > holder.token
            assert client.counter("paused").compare_and_set(1, 0, fence=held)
            holder.process.send_signal(signal.SIGCONT)
            assert [holder.ask(word) for word in ("check", "add", "put", "release")] == ["lost"] * 4
            held.check()
        assert client.counter("paused").get() == 0


def test_what_a_killed_holder_had_is_the_next_ones(client: Client, crew: PoolCrew) -> None:
    with Holder(crew, "killed") as holder:
        waiter = in_thread(lambda: client.lock("killed").acquire())
        wait_for(lambda: waiting(client, "killed") == 1, "it waits")
        holder.process.kill()
        held = waiter()
        assert isinstance(held, Held) and held.token > holder.token
        held.release()


def test_holds_values_and_waits_outlive_a_killed_coordinator(client: Client, crew: PoolCrew) -> None:
    client.counter("kept").add(41)
    client.event("kept").set()
    lock = client.lock("kept")
    held = lock.acquire()
    waiter = in_thread(lambda: client.lock("kept").acquire())
    wait_for(lambda: waiting(client, "kept") == 1, "it waits")
    crew.kill_coordinator()
    held.check()
    assert client.counter("kept").add() == 42 and client.event("kept").wait(0)
    wait_for(lambda: waiting(client, "kept") == 1, "it waits again")
    crew.kill_coordinator()
    held.release()
    after = waiter()
    assert isinstance(after, Held) and after.token > held.token
    after.release()


def test_barriers_and_events_are_waited_for_while_the_coordinator_is_killed(client: Client, crew: PoolCrew) -> None:
    party = in_thread(lambda: client.barrier("again", 2).wait(WAIT_S))
    waiter = in_thread(lambda: client.event("again").wait(WAIT_S))
    wait_for(lambda: waiting(client, "again") == 2, "they wait")
    crew.kill_coordinator()
    with crew.client() as other:
        assert other.barrier("again", 2).wait(WAIT_S) == 0 == party()
        other.event("again").set()
    assert waiter() is True


def test_who_waits_for_a_lock_of_a_client_that_is_closed_is_told(client: Client, crew: PoolCrew) -> None:
    other = crew.client()
    with client.lock("never"):
        waiter = in_thread(lambda: other.lock("never").acquire())
        looped = in_thread(lambda: asyncio.run(other.lock("never").acquire_async()))
        wait_for(lambda: waiting(client, "never") == 2, "they wait")
        other.close()
        for result in (waiter(), looped()):
            assert isinstance(result, WireError) and "closed" in str(result)


def test_a_grant_that_crosses_the_end_of_a_wait_is_given_back(client: Client) -> None:
    def work() -> None:
        for i in range(100):
            with contextlib.suppress(TimeoutError):
                client.lock("crossing").acquire(0.0002 * (i % 5 + 1)).release()

    for result in [in_thread(work) for _ in range(4)]:
        assert result() is None
    with client.lock("crossing"):
        assert waiting(client, "crossing") == 0


def test_what_a_client_holds_when_it_closes_is_free_at_once(client: Client, crew: PoolCrew) -> None:
    other = crew.client()
    other.lock("closed").acquire()
    other.close()
    client.lock("closed").acquire(0).release()


def test_a_lock_that_is_lost_ends_its_block_with_an_error(crew: PoolCrew) -> None:
    with crew.client() as client:
        lock = client.lock("block")
        with pytest.raises(ZeroDivisionError), lock:
            raise ZeroDivisionError
        with pytest.raises(LeaseLost, match="clash"), lock as held:
            client._link.tell(held._lock.locking._grants.release(held.number))  # as if the pool had taken it away
        with pytest.raises(ZeroDivisionError), lock as held:
            client._link.tell(held._lock.locking._grants.release(held.number))
            raise ZeroDivisionError


def test_the_shell_tells_who_holds_and_who_waits(
    client: Client, crew: PoolCrew, tmp_path: Path, typed_in: Callable[..., Any]
) -> None:
    token = tmp_path / "token"
    token.write_text(crew.token)
    token.chmod(0o600)
    where = ["--to", f"127.0.0.1:{crew.port}", "--token-file", str(token)]
    client.counter("shell").add(3)
    with client.lock("shell") as held:
        waiter = in_thread(lambda: client.lock("shell").acquire(WAIT_S))
        wait_for(lambda: waiting(client, "shell") == 1, "it waits")
        told = typed_in(tmp_path, "locks", *where, "--json")["locks"]
        lines = typed_in(tmp_path, "locks", *where).splitlines()
    rows = {row["kind"]: row for row in told if row["name"] == "shell"}
    assert rows["lock"]["holders"][0]["token"] == held.token and "MainThread" in rows["lock"]["holders"][0]["owner"]
    assert len(rows["lock"]["waiting"]) == 1 and rows["counter"]["value"] == 3
    assert any(line.startswith("lock\tshell\t-\t[client") and f"token {held.token}]" in line for line in lines)
    after = waiter()
    assert isinstance(after, Held)
    after.release()


def test_under_kills_and_pauses_the_histories_are_linearizable(tmp_path: Path) -> None:
    report = lockstorm.run(0, tmp_path / "storm", 1)
    assert report["troubles"] == [], report
    assert min(report["operations"].values()) > 0, report
