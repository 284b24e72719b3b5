"""A process that uses one of everything that coordinates: lock, read-write lock, semaphore, counter, event and barrier.

It notes its calls and returns in a file that outlives it; `histories` makes of such files what linear.py checks.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from plesio.errors import LeaseLost
from plesio.tasks.client import Client
from plesio.tasks.counters import Barrier, Counter, Event
from plesio.tasks.dialling import Address
from plesio.tasks.link import Link
from plesio.tasks.locks import Held, Lock
from plesio.testing.linear import NEVER_S, TAKING, Count, Flag, Meeting, Model, Op, Places

PARTS, PARTIES = 2, 3
MANY = 1000  # readers at a time
NAME = "storm"
STOP = "stop"
REST_S = 0.01
WAITS_S = (0, 0.002, 0.1, 1.0)  # for an event or a barrier: nobody may come, as many are killed
MODELS: dict[str, Model] = {
    "lock": Places(1), "rwlock": Places(MANY), "semaphore": Places(PARTS),
    "counter": Count(), "event": Flag(), "barrier": Meeting(PARTIES),
}  # fmt: skip


class Notes:
    """Of one process: a line when it calls, a line when that returned."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def call(self, what: str, name: str, argument: Any, work: Callable[[], Any]) -> Any:
        """Notes it and does it."""
        self._write([what, name, argument])
        result = work()
        self._write([result])
        return result

    def _write(self, row: list[Any]) -> None:
        os.write(self._file, (json.dumps([time.monotonic(), *row]) + "\n").encode())


def work(client: Client, notes: Notes, rng: random.Random, stop: Path) -> None:
    """Until there is such a file."""
    both = client.rwlock(NAME)
    places = [
        ("lock", "acquire", client.lock(NAME)), ("semaphore", "acquire", client.semaphore(NAME, PARTS)),
        ("rwlock", "read", both.read()), ("rwlock", "write", both.write()),
    ]  # fmt: skip
    counter, event, barrier = client.counter(NAME), client.event(NAME), client.barrier(NAME, PARTIES)
    while not stop.exists():
        _hold(*rng.choice(places), notes, rng)
        _count(counter, notes, rng)
        _signal(event, notes, rng)
        _meet(barrier, notes, rng)


def _hold(what: str, name: str, lock: Lock, notes: Notes, rng: random.Random) -> None:
    held: list[Held] = []

    def acquire() -> int:
        held.append(lock.acquire())
        return held[0].token

    token = notes.call(what, name, None, acquire)
    time.sleep(REST_S * rng.random())
    notes.call(what, "check", token, lambda: _whether(held[0].check))
    notes.call(what, "release", token, lambda: _whether(held[0].release))


def _whether(ask: Callable[[], None]) -> str:
    try:
        ask()
    except LeaseLost:
        return "lost"
    return "done"


def _count(counter: Counter, notes: Notes, rng: random.Random) -> None:
    amount = rng.randint(1, 9)
    value = notes.call("counter", "add", amount, partial(counter.add, amount))
    if rng.random() < 0.5:
        new = value + rng.randint(1, 9)
        notes.call("counter", "swap", [value, new], partial(counter.compare_and_set, value, new))
    notes.call("counter", "get", None, counter.get)


def _signal(event: Event, notes: Notes, rng: random.Random) -> None:
    wait_s = rng.choice(WAITS_S)
    calls: list[tuple[str, Any, Callable[[], Any]]] = [
        ("set", None, event.set), ("clear", None, event.clear), ("get", None, event.is_set),
        ("wait", wait_s, partial(event.wait, wait_s)),
    ]  # fmt: skip
    notes.call("event", *rng.choice(calls))


def _meet(barrier: Barrier, notes: Notes, rng: random.Random) -> None:
    def wait() -> int | str:
        try:
            return barrier.wait(wait_s)
        except TimeoutError:
            return "late"

    wait_s = rng.choice(WAITS_S)
    notes.call("barrier", "wait", wait_s, wait)


def histories(files: Iterable[Path], faults_s: dict[str, list[float]]) -> dict[str, list[Op]]:
    """By what was used. faults_s: by name of a file, when its process was killed or paused."""
    found: dict[str, list[Op]] = {what: [] for what in MODELS}
    for path in files:
        for called_s, what, name, argument, returned_s, result in _calls(path):
            if what == "barrier":
                found[what] += _visit(called_s, returned_s, result)
                continue
            said = f"{path.name} {called_s}" if name in TAKING else tuple(argument) if name == "swap" else argument
            found[what].append(Op(called_s, returned_s, name, said, result))
            if name in TAKING:
                token = said if result is None else result
                times = [at_s for at_s in faults_s.get(path.name, []) if at_s > called_s]
                found[what] += [Op(at_s, NEVER_S, "lose", token) for at_s in times[:1]]
    return {what: _without_idle(ops) for what, ops in found.items()}


def _calls(path: Path) -> Iterator[list[Any]]:
    """Each with its return: NEVER_S, None for one that did not."""
    rows = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    rows += [[NEVER_S, None]] * (len(rows) % 2)
    return (called + returned for called, returned in zip(rows[::2], rows[1::2], strict=True))


def _visit(called_s: float, returned_s: float, result: Any) -> list[Op]:
    """A wait at the barrier; see Meeting."""
    if result == "late":
        return []
    come = Op(called_s, returned_s, "come", None, result)
    return [come] if result is None else [come, come._replace(name="go")]


def _without_idle(ops: list[Op]) -> list[Op]:
    """A token that was released well was not lost."""
    released = {op.argument for op in ops if op.name == "release" and op.result == "done"}
    return [op for op in ops if op.name != "lose" or op.argument not in released]


def main() -> None:
    """One worker."""
    port, token, path, seed = sys.argv[1:]
    link = Link(Address("127.0.0.1", int(port), token))
    link.open()
    with Client(link) as client:
        work(client, Notes(Path(path)), random.Random(seed), Path(path).parent / STOP)


if __name__ == "__main__":
    main()
