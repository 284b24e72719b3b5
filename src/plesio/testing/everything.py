"""One pool under everything at once, with kills: `python -m plesio.testing.everything`.

A training run, a map, two queues of messages, a lock with a counter, and urgent tasks share three slots, while processes
of the pool are killed one after the other. Then each is held against what was promised.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plesio.errors import LeaseLost, PlesioError
from plesio.tasks.client import Client
from plesio.tasks.embedded import attach
from plesio.testing.poolcrew import children
from plesio.testing.poolup import PoolUp, descendants
from plesio.testing.poolverdict import read_facts, troubles
from plesio.testing.waiting import Hung

STEADY = Path(__file__).parents[3] / "tests" / "scripts" / "steady.py"
RECORDS, MESSAGES, ADDS, URGENT = 20_000, 300, 60, 12
KILLS, BETWEEN_S = 6, (2.0, 6.0)
LIMIT_S = 240.0
Row = dict[str, Any]


def fingerprint(record: dict[str, Any]) -> str:
    """What the map does with a record."""
    return hashlib.sha256(record["text"].encode()).hexdigest()[:16]


class Everything:
    """One schedule. Owned by whoever runs it."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.rng = random.Random(seed)
        self.pool = PoolUp(folder, workers=3)
        self.killed: list[str] = []
        self.wrong: list[str] = []
        self.sent: dict[str, list[tuple[int, int]]] = {"a": [], "b": []}  # (priority, number), acknowledged
        self.got: dict[str, list[tuple[int, int]]] = {"a": [], "b": []}
        self.added = 0
        self.urgent: list[int] = []

    def run(self) -> Row:
        """Until all is done, or the time is over."""
        began_s = time.monotonic()
        shutil.copy(STEADY, self.pool.code)
        (self.pool.code / "in.jsonl").write_text("".join(json.dumps({"text": f"record {i}"}) + "\n" for i in range(RECORDS)))
        with self.pool as pool:
            run = pool.command(
                "run", "--on", str(pool.folder), "--name", "r", "--learners", "2", "--strategy", "decoupled(every=8)",
                "--start-rounds", "4", "steady.py",
            )  # fmt: skip
            mapped = pool.command(
                "map", f"{__file__}:fingerprint", "in.jsonl", "--out", "out", "--batch", "64", "--dir", str(pool.folder)
            )
            threads = [
                threading.Thread(target=self._guarded, args=(work, *args), daemon=True)
                for work, *args in (
                    (self._send, "a"), (self._send, "b"), (self._receive,), (self._count,), (self._ask_urgently,)
                )
            ]  # fmt: skip
            for thread in threads:
                thread.start()
            self._kill_some()
            for what, process in (("the run", run), ("the map", mapped)):
                try:
                    _, words = process.communicate(timeout=max(1.0, LIMIT_S - (time.monotonic() - began_s)))
                    if process.returncode:
                        self.wrong.append(f"{what} ended with {process.returncode}: {words[-300:]}")
                except subprocess.TimeoutExpired:
                    process.kill()
                    self.wrong.append(f"{what} hangs")
            for thread in threads:
                thread.join(max(1.0, LIMIT_S - (time.monotonic() - began_s)))
                if thread.is_alive():
                    self.wrong.append(f"{thread.name} hangs")
            self._judge()
        self.wrong += troubles(read_facts(self.pool.folder))
        return {"killed": self.killed, "problems": self.wrong, "wall_s": round(time.monotonic() - began_s, 1)}

    def _guarded(self, work: Callable[..., None], *args: Any) -> None:
        try:
            with attach(self.pool.folder) as client:
                work(client, *args)
        except (PlesioError, Hung, TimeoutError) as error:
            self.wrong.append(f"{work.__name__}: {type(error).__name__}: {error}")

    # -- who uses it

    def _send(self, client: Client, name: str) -> None:
        queue = client.queue(name)
        for begin in range(0, MESSAGES, 10):
            batch = [(n % 2, n) for n in range(begin, begin + 10)]
            for future in [queue.put([priority, n], priority=priority) for priority, n in batch]:
                future.result(LIMIT_S)
            self.sent[name] += batch
            time.sleep(0.3)

    def _receive(self, client: Client) -> None:
        until_s = time.monotonic() + LIMIT_S
        while any(len(got) < MESSAGES for got in self.got.values()) and time.monotonic() < until_s:
            for name, got in self.got.items():
                for message in client.queue(name).get_many(7, 0.2):
                    got.append(tuple(message.value))
                    message.ack()

    def _count(self, client: Client) -> None:
        counter, lock = client.counter("n"), client.lock("l")
        while self.added < ADDS:
            try:
                with lock as held:
                    counter.add(1, fence=held)
                    self.added += 1
            except LeaseLost:
                continue
            time.sleep(0.2)

    def _ask_urgently(self, client: Client) -> None:
        for n in range(URGENT):
            self.urgent.append(client.submit("operator:add", n, 1, priority=9).result(LIMIT_S))
            time.sleep(1.0)

    # -- who kills

    def _kill_some(self) -> None:
        self.pool.wait_for_tokens("r", 100)
        for _ in range(KILLS):
            time.sleep(self.rng.uniform(*BETWEEN_S))
            what = self.rng.choice(("a slot", "a slot", "the coordinator", "a learner", "the supervisor", "the own slot"))
            pids = self._who(what)
            if pids:
                self.killed.append(what)
                try:
                    os.kill(self.rng.choice(pids), signal.SIGKILL)
                except ProcessLookupError:
                    continue

    def _who(self, what: str) -> list[int]:
        assert self.pool.process is not None
        direct = children(self.pool.process.pid)
        if what == "the coordinator":
            return direct[:1]
        if what == "a learner":
            return self._named("plesio join")
        supervisors = self._named("plesio.runs.supervisor")
        if what == "the supervisor":
            return supervisors
        own = [parent(pid) for pid in supervisors]
        return own if what == "the own slot" else [pid for pid in direct[1:] if pid not in own]

    def _named(self, words: str) -> list[int]:
        assert self.pool.process is not None
        return [pid for pid in descendants(self.pool.process.pid) if words.encode().replace(b" ", b"\0") in command(pid)]

    # -- what was promised

    def _judge(self) -> None:
        row = self.pool.run("r")
        path = self.pool.folder / "runs" / "r" / "summary.json"
        units = json.loads(path.read_text())["units"] if path.exists() else {}
        whole = units.get("applied", 0) + units.get("partial", 0) == 1024
        if row.get("state") != "finished" or not whole or units["lost"] or units["duplicated"]:
            self.wrong.append(f"the run: {row.get('state')}, {units}")
        expected = "".join(json.dumps(fingerprint({"text": f"record {i}"})) + "\n" for i in range(RECORDS))
        out = "".join(p.read_text() for p in sorted((self.pool.code / "out").glob("part-*")))
        if out != expected:
            self.wrong.append(f"the map: {len(out.splitlines())} of {RECORDS} lines, or others")
        for name, sent in self.sent.items():
            got = self.got[name]
            if sorted(got) != sorted(sent) or len(sent) != MESSAGES:
                self.wrong.append(f"queue {name}: {len(sent)} sent, {len(got)} had, {len(set(got))} different")
            for priority in (0, 1):
                numbers = [n for p, n in got if p == priority]
                if numbers != sorted(numbers):
                    self.wrong.append(f"queue {name}: priority {priority} is out of order")
        if self.urgent != [n + 1 for n in range(URGENT)]:
            self.wrong.append(f"urgent tasks: {self.urgent}")
        with attach(self.pool.folder) as client:
            if client.counter("n").get() != self.added:
                self.wrong.append(f"the counter: {client.counter('n').get()}, and {self.added} were added")
            dead = [row for row in client.ask("tasks", "dead") if "runs.shelf" not in row["fn"]]
            self.wrong += [f"task {row['id']}, {row['fn']}, is dead: {row['kind']}: {row['message']}" for row in dead]


def parent(pid: int) -> int:
    """Who started it."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def command(pid: int) -> bytes:
    """Its command, or nothing when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def main() -> None:
    """Entry of the command. Exit code 1: a schedule failed."""
    parser = argparse.ArgumentParser(prog="python -m plesio.testing.everything", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="run seeds 0 to N-1 (default: 20, about 25 minutes)")
    parser.add_argument("--seed", type=int, help="run this one only")
    parser.add_argument("--out", type=Path, help="write the results to this file, as JSON")
    asked = parser.parse_args()
    rows = []
    for seed in range(asked.seeds) if asked.seed is None else [asked.seed]:
        with tempfile.TemporaryDirectory(prefix="pl-") as folder:
            rows.append({"seed": seed, **Everything(seed, Path(folder)).run()})
        print(f"seed {seed}: {rows[-1]}", file=sys.stderr, flush=True)
        if asked.out is not None:
            told = {"what": "one pool under everything at once, with kills", "schedules": rows}
            asked.out.write_text(json.dumps(told, indent=1) + "\n")
    sys.exit(any(row["problems"] for row in rows))


if __name__ == "__main__":
    main()
