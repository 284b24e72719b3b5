"""Processes that use one lock, one semaphore and one counter, under kills and pauses of them and of the coordinator.

Each notes its calls and returns in a file of its own, which outlives it; the histories are then checked: linear.py.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from plesio.core.pool.places import LEASE_S
from plesio.errors import LeaseLost
from plesio.tasks.client import Client
from plesio.tasks.dialling import Address
from plesio.tasks.link import Link
from plesio.tasks.locks import Held, Lock
from plesio.testing.linear import NEVER_S, Count, Model, Op, Places, is_linearizable
from plesio.testing.poolcrew import PoolCrew

WORKERS, PARTS = 4, 2
NAME = "storm"
STOP = "stop"
FAULTS = ("killed", "killed", "paused", "coordinator")
REST_S = 0.01
WAIT_S = 60.0


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
    counter = client.counter(NAME)
    places = {"lock": client.lock(NAME), "semaphore": client.semaphore(NAME, PARTS)}
    while not stop.exists():
        what = rng.choice(sorted(places))
        _hold(places[what], what, notes, rng)
        amount = rng.randint(1, 9)
        value = notes.call("counter", "add", amount, partial(counter.add, amount))
        if rng.random() < 0.5:
            new = value + rng.randint(1, 9)
            notes.call("counter", "swap", [value, new], partial(counter.compare_and_set, value, new))
        notes.call("counter", "get", None, counter.get)


def _hold(lock: Lock, what: str, notes: Notes, rng: random.Random) -> None:
    held: list[Held] = []

    def acquire() -> int:
        held.append(lock.acquire())
        return held[0].token

    token = notes.call(what, "acquire", None, acquire)
    time.sleep(REST_S * rng.random())
    notes.call(what, "check", token, lambda: _whether(held[0].check))
    notes.call(what, "release", token, lambda: _whether(held[0].release))
    time.sleep(REST_S * rng.random())


def _whether(ask: Callable[[], None]) -> str:
    try:
        ask()
    except LeaseLost:
        return "lost"
    return "done"


def histories(files: list[Path], faults_s: dict[str, list[float]]) -> dict[str, list[Op]]:
    """By what was used. faults_s: by name of a file, when its process was killed or paused."""
    found: dict[str, list[Op]] = {"lock": [], "semaphore": [], "counter": []}
    for path in files:
        rows = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        rows += [[NEVER_S, None]] * (len(rows) % 2)
        for (called_s, what, name, argument), (returned_s, result) in zip(rows[::2], rows[1::2], strict=True):
            said = f"{path.name} {called_s}" if name == "acquire" else tuple(argument) if name == "swap" else argument
            found[what].append(Op(called_s, returned_s, name, said, result))
            if name == "acquire":
                token = said if result is None else result
                times = [at_s for at_s in faults_s.get(path.name, []) if at_s > called_s]
                found[what] += [Op(at_s, NEVER_S, "lose", token) for at_s in times[:1]]
    return {what: _without_idle(ops) for what, ops in found.items()}


def _without_idle(ops: list[Op]) -> list[Op]:
    """A token that was released well was not lost."""
    released = {op.argument for op in ops if op.name == "release" and op.result == "done"}
    return [op for op in ops if op.name != "lose" or op.argument not in released]


class Workers:
    """Owns the processes; `with` ends them all. faults_s: by name, when it was killed or paused."""

    def __init__(self, crew: PoolCrew, folder: Path, seed: int) -> None:
        self.crew, self.folder, self.seed = crew, folder, seed
        self.alive: dict[str, subprocess.Popen[bytes]] = {}
        self.faults_s: dict[str, list[float]] = {}

    def __enter__(self) -> Workers:
        for _ in range(WORKERS):
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.alive.values():
            process.kill()
            process.wait()

    def start(self) -> None:
        """One more."""
        path = self.folder / f"w{len(self.files())}"
        path.touch()
        words = [str(self.crew.port), self.crew.token, str(path), f"{self.seed} {path.name}"]
        self.alive[path.name] = subprocess.Popen([sys.executable, "-m", "plesio.testing.lockstorm", *words])

    def files(self) -> list[Path]:
        """The notes of all there ever were."""
        return sorted(self.folder.glob("w*"))

    def suffer(self, fault: str, rng: random.Random) -> None:
        """One of FAULTS."""
        name = rng.choice(sorted(self.alive))
        if fault == "coordinator":
            self.crew.kill_coordinator()
            return
        self.faults_s.setdefault(name, []).append(time.monotonic())
        if fault == "killed":
            process = self.alive.pop(name)
            process.kill()
            process.wait()
            self.start()
        else:
            self.alive[name].send_signal(signal.SIGSTOP)
            time.sleep(rng.choice((0.5, LEASE_S + 1)))
            self.alive[name].send_signal(signal.SIGCONT)

    def end(self) -> None:
        """All who live have what they wait for, in time, and end."""
        (self.folder / STOP).touch()
        for name, process in self.alive.items():
            code = process.wait(WAIT_S)
            assert code == 0, f"{name} ended with {code}"


def run(seed: int, folder: Path, rounds: int) -> dict[str, Any]:
    """One schedule of so many rounds of FAULTS. Returns what was done, and 'troubles': what cannot have happened."""
    rng = random.Random(seed)
    (folder / "pool").mkdir(parents=True)
    with PoolCrew(folder / "pool") as crew, Workers(crew, folder, seed) as workers:
        for _ in range(rounds):
            for fault in rng.sample(FAULTS, len(FAULTS)):
                time.sleep(rng.uniform(0.3, 1.5))
                workers.suffer(fault, rng)
        workers.end()
    found = histories(workers.files(), workers.faults_s)
    models: dict[str, Model] = {"lock": Places(1), "semaphore": Places(PARTS), "counter": Count()}
    troubles = [f"{what}: not linearizable" for what, ops in found.items() if not is_linearizable(ops, models[what])]
    lost = sum(op.result == "lost" for ops in found.values() for op in ops)
    return {"seed": seed, **{what: len(ops) for what, ops in found.items()}, "lost": lost, "troubles": troubles}


def main() -> None:
    """One worker."""
    port, token, path, seed = sys.argv[1:]
    link = Link(Address("127.0.0.1", int(port), token))
    link.open()
    with Client(link) as client:
        work(client, Notes(Path(path)), random.Random(seed), Path(path).parent / STOP)


if __name__ == "__main__":
    main()
