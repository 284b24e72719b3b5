"""What is measured of a peer, the same way for each: see `measure` and `disturb`. One JSON object on stdout.

Not here: what any peer's settings are, those are in the peer's file.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import children
import environment

ONE_BY_ONE = 1_000
IDLE_S = 5.0
KILL_TASKS = 200
KILL_TASK_S = 0.05
WATCHED_S = 30.0
STARTED_S = 120.0


class Peer(Protocol):
    """A system with two workers, or two nodes of one worker each; `journal` says what survives a crash."""

    name: str
    pins: tuple[str, ...]
    journal: str
    settings: str
    variants: tuple[str, ...]  # of settings, for `start_nodes`

    def start(self, folder: Path) -> None:
        """Two worker processes; need not wait until they are ready."""
        ...

    def many(self, count: int) -> None:
        """So many no-op tasks at once; returns when all results are here."""
        ...

    def one(self) -> None:
        """A no-op task and its result."""
        ...

    def drop_journal(self) -> bool:
        """Goes on without durability; False: there was none."""
        ...

    def stop(self) -> None:
        """Says goodbye, whether started or not; processes that stay nevertheless are stopped after it."""
        ...

    def start_nodes(self, folder: Path, variant: str) -> list[int]:
        """Two nodes with a worker each; the process of each that all others of the node are below."""
        ...

    def send(self, path: str, count: int) -> list[Any]:
        """Tasks that call `leave_effect(path, number)`, number below count."""
        ...

    def unfinished(self, tasks: list[Any]) -> list[Any]:
        """Those whose result is not here yet. Does not wait."""
        ...


def leave_effect(path: str, number: int) -> int:
    """A task of KILL_TASK_S whose effect comes half way: a line that says which task and who ran it."""
    time.sleep(KILL_TASK_S / 2)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, f"{number} {os.getpid()}\n".encode())
    os.close(file)
    time.sleep(KILL_TASK_S / 2)
    return number


def _effects(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def _rate(peer: Peer, count: int) -> float:
    began_s = time.perf_counter()
    peer.many(count)
    return round(count / (time.perf_counter() - began_s), 1)


def measure(peer: Peer, tasks: int, folder: Path) -> dict[str, Any]:
    """first_result_s: from nothing started and nothing imported (the interpreter is there) to a task's result.

    tasks_per_s: no-op tasks from one client, all results awaited, after a warm-up; p50_ms and p99_ms: one task at a
    time, until its result is here; idle_*: all processes but the client, a while after that;
    tasks_per_s_without_journal: again, nothing durable.
    """
    began_s = time.perf_counter()
    peer.start(folder)
    peer.one()
    first_s = time.perf_counter() - began_s
    peer.many(min(tasks, 1_000))
    rate = _rate(peer, tasks)
    waits_ms = []
    for _ in range(ONE_BY_ONE):
        sent_s = time.perf_counter()
        peer.one()
        waits_ms.append((time.perf_counter() - sent_s) * 1e3)
    time.sleep(IDLE_S)
    memory = children.memory_mb(children.below(os.getpid()))
    percentiles = statistics.quantiles(waits_ms, n=100)
    return {
        "tasks_per_s": rate,
        "p50_ms": round(percentiles[49], 3),
        "p99_ms": round(percentiles[98], 3),
        "first_result_s": round(first_s, 3),
        **memory,
        "tasks_per_s_without_journal": _rate(peer, tasks) if peer.drop_journal() else None,
        "journal": peer.journal,
        "settings": peer.settings,
    }


def _finish(peer: Peer, tasks: list[Any], until_s: float) -> tuple[float, list[Any]]:
    """When the last of them was seen done, or the end of the wait with what is missing."""
    while (tasks := peer.unfinished(tasks)) and time.perf_counter() < until_s:
        time.sleep(0.05)
    return time.perf_counter(), tasks


def _wait_for_both(peer: Peer, path: Path) -> None:
    """Sends tasks until two processes have run some."""
    until_s = time.perf_counter() + STARTED_S
    while len({pid for _, pid in _effects(path)}) < 2:
        if time.perf_counter() > until_s:
            raise SystemExit(f"two nodes of {peer.name} did not both work within {STARTED_S:.0f} s")
        _finish(peer, peer.send(str(path), 8), until_s)


def disturb(peer: Peer, variant: str, folder: Path) -> dict[str, Any]:
    """KILL_TASKS tasks twice: undisturbed, and with a node killed after a quarter of them left their effect.

    Looked at WATCHED_S after the kill: whose results are not here, whose effect happened more than once, or never.
    """
    nodes = peer.start_nodes(folder, variant)
    _wait_for_both(peer, folder / "warm")
    began_s = time.perf_counter()
    ended_s, missing = _finish(peer, peer.send(str(folder / "calm"), KILL_TASKS), began_s + STARTED_S)
    if missing:
        raise SystemExit(f"{peer.name} did not finish {len(missing)} tasks though nobody disturbed it")
    calm_s, path = ended_s - began_s, folder / "disturbed"
    began_s = time.perf_counter()
    sent = peer.send(str(path), KILL_TASKS)
    while len(_effects(path)) < KILL_TASKS // 4:
        time.sleep(0.005)
    children.kill([nodes[1], *children.below(nodes[1])])
    watched_s = time.perf_counter() + WATCHED_S
    ended_s, missing = _finish(peer, sent, watched_s)
    time.sleep(max(0.0, watched_s - time.perf_counter()))  # a second run of a task may come late
    times = collections.Counter(int(number) for number, _ in _effects(path))
    return {
        "variant": variant,
        "not_done": len(missing),
        "effects_twice": sum(1 for count in times.values() if count > 1),
        "effects_never": KILL_TASKS - len(times),
        "undisturbed_s": round(calm_s, 2),
        "disturbed_s": None if missing else round(ended_s - began_s, 2),
    }


@contextlib.contextmanager
def _started(peer: Peer) -> Iterator[tuple[Peer, Path]]:
    with children.folder() as folder:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # whatever a library has to say
                yield peer, folder
        finally:
            children.begin_cleaning()
            peer.stop()


def _speed(peer: Peer, tasks: int) -> dict[str, Any]:
    with _started(peer) as (_, folder):
        return measure(peer, tasks, folder)


def _kill(make: Callable[[], Peer], variants: tuple[str, ...]) -> dict[str, Any]:
    found = []
    for variant in variants:
        with _started(make()) as (peer, folder):
            found.append(disturb(peer, variant, folder))
    return {"kill": found}


def main(make: Callable[[], Peer], what: str | None) -> None:
    """The command line of a peer's script."""
    peer = make()
    parser = argparse.ArgumentParser(description=what, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--kill", action="store_true", help="kill a node instead of measuring speed")
    parser.add_argument("--env", type=Path, default=environment.CACHE / peer.name, help="its virtual environment")
    args = parser.parse_args()
    environment.enter(args.env, peer.pins)
    try:
        result = _kill(make, peer.variants) if args.kill else _speed(peer, args.tasks)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # a library's own clean-up would try for long to reach servers that are stopped
    print(json.dumps({"system": peer.name, "pins": peer.pins, **result}), flush=True)
