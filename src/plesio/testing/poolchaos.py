"""Seeded schedules of real faults for a pool: tasks, or messages, while processes are killed. See `make pool-chaos`.

Tasks: 5,000 of two priorities on two nodes. Messages: two senders and two receivers, processes of their own, that are
killed as well. Faults come at given numbers of tasks done or messages received, so that a loaded machine tests the same.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from plesio.testing.poolcrew import PoolCrew
from plesio.testing.poolverdict import read_facts, troubles

TASKS = 5000
MESSAGES = 1500
LONGEST_S = 180.0
TASK_FAULTS = ("slot", "slot", "node", "coordinator", "coordinator", "stop slot", "stop node", "host", "client")
MESSAGE_FAULTS = ("coordinator", "coordinator", "sender", "receiver", "receiver", "host")


def double(i: int, pause_s: float) -> int:
    """The task."""
    time.sleep(pause_s)
    return 2 * i


def run_tasks(seed: int, folder: Path, tasks: int = TASKS, faults: int = 6) -> dict[str, Any]:
    """One schedule; `troubles` in the result is empty when all is well."""
    rng = random.Random(seed)
    plan = sorted((rng.randrange(tasks // 20, tasks * 9 // 10), rng.choice(TASK_FAULTS)) for _ in range(faults))
    began_s = time.monotonic()
    found: list[str] = []
    with PoolCrew(folder) as crew:
        crew.start_node("a")
        crew.start_node("b")
        client = crew.client()
        crew.wait_for_slots(client, 2)
        name = "plesio.testing.poolchaos:double"
        pauses = [rng.choice((0.0, 0.0, 0.001, 0.004)) for _ in range(tasks)]
        futures = [client.submit(name, i, pause_s, priority=i % 2) for i, pause_s in enumerate(pauses)]
        stopped: list[tuple[float, str]] = []
        for number, (at, fault) in enumerate(plan):
            _wait(at, began_s, futures, stopped, crew)
            _strike(fault, crew, rng, stopped, f"n{number}", client)
        _wait(tasks, began_s, futures, stopped, crew)
        wrong = [
            i for i, future in enumerate(futures) if not future.done() or future.exception() or future.result() != 2 * i
        ]
        found += [f"task {i}: {futures[i]!r} {futures[i]._error}" for i in wrong[:10]]
        client.close()
    found += troubles(read_facts(folder))
    return {"seed": seed, "faults": plan, "wall_s": round(time.monotonic() - began_s, 1), "troubles": found[:20]}


def _wait(count: int, began_s: float, futures: list[Any], stopped: list[tuple[float, str]], crew: PoolCrew) -> None:
    """Until so many tasks have ended, or for long enough."""
    ended = 0
    while time.monotonic() - began_s < LONGEST_S:
        _wake(stopped, crew)
        while ended < len(futures) and futures[ended].done():
            ended += 1
        if ended + sum(future.done() for future in futures[ended:]) >= count:
            return
        time.sleep(0.02)  # the client's own thread reads


def _wake(stopped: list[tuple[float, str]], crew: PoolCrew) -> None:
    for at_s, node in list(stopped):
        if time.monotonic() >= at_s:
            stopped.remove((at_s, node))
            if node in crew.nodes:
                crew.signal_node(node, signal.SIGCONT)


def _strike(
    fault: str, crew: PoolCrew, rng: random.Random, stopped: list[tuple[float, str]], name: str, client: Any
) -> None:
    node = rng.choice(sorted(crew.nodes))
    if fault == "slot":
        crew.kill_slot(rng)
    elif fault == "node":
        crew.kill_node(node)
        crew.start_node(name)
    elif fault == "coordinator":
        crew.kill_coordinator()
    elif fault == "host":
        crew.kill_host()
        crew.start_host()
    elif fault == "client":  # its connection breaks
        channel = client._link._channel
        with contextlib.suppress(OSError):
            channel.sock.shutdown(2)
    else:
        crew.signal_node(node, signal.SIGSTOP)
        stopped.append((time.monotonic() + (0.5 if fault == "stop slot" else 3.0), node))


def send(folder: str, port: int, token: str, sender: int, count: int) -> None:
    """A sender: numbers from where its log ends. What is in the log was acknowledged."""
    from plesio.tasks.client import Client
    from plesio.tasks.dialling import Address
    from plesio.tasks.link import Link

    link = Link(Address("127.0.0.1", port, token))
    link.open()
    queue = Client(link).queue("work")
    log = Path(folder) / f"sent-{sender}"
    sent = log.read_text().count("\n") if log.exists() else 0
    with log.open("a", buffering=1) as out:
        while sent < count:
            batch = [queue.put((sender, i), priority=i % 2) for i in range(sent, min(count, sent + 10))]
            for future in batch:
                future.result()
                out.write(f"{sent}\n")
                sent += 1
    link.close()


def receive(folder: str, port: int, token: str, receiver: int) -> None:
    """A receiver: logs what it has, then acknowledges it. Until told to stop."""
    from plesio.tasks.client import Client
    from plesio.tasks.dialling import Address
    from plesio.tasks.link import Link

    link = Link(Address("127.0.0.1", port, token))
    link.open()
    queue = Client(link).queue("work")
    with (Path(folder) / f"got-{receiver}").open("a", buffering=1) as out:
        while not (Path(folder) / "over").exists():
            messages = queue.get_many(7, 0.2)
            for message in messages:
                sender, i = message.value
                out.write(f"{sender} {i}\n")
                message.ack()
    link.close()


def run_messages(seed: int, folder: Path, messages: int = MESSAGES, faults: int = 5) -> dict[str, Any]:
    """One schedule of messages; as run_tasks."""
    rng = random.Random(seed)
    plan = sorted((rng.randrange(messages // 10, messages), rng.choice(MESSAGE_FAULTS)) for _ in range(faults))
    began_s = time.monotonic()
    found: list[str] = []
    processes: dict[str, subprocess.Popen[bytes]] = {}
    each = messages // 2
    with PoolCrew(folder) as crew:

        def start(who: str) -> None:
            role, number = who.split()
            call = f"{'send' if role == 'sender' else 'receive'}({str(folder)!r}, {crew.port}, {crew.token!r}, {number}"
            call += f", {each})" if role == "sender" else ")"
            line = f"from plesio.testing.poolchaos import send, receive; {call}"
            processes[who] = subprocess.Popen([sys.executable, "-c", line])

        def got() -> set[str]:
            return {line for path in folder.glob("got-*") for line in path.read_text().splitlines()}

        def tend() -> None:
            for who, process in list(processes.items()):
                code = process.poll()
                if code is not None and (code != 0 or who.startswith("receiver")):
                    if code > 0:
                        found.append(f"{who} ended with {code}")
                    start(who)

        everybody = ["sender 0", "sender 1", "receiver 0", "receiver 1"]
        for who in everybody:
            start(who)
        try:
            for at, fault in [*plan, (2 * each, "")]:
                while len(got()) < at and time.monotonic() - began_s < LONGEST_S and not found:
                    tend()
                    time.sleep(0.02)
                if fault == "coordinator":
                    crew.kill_coordinator()
                elif fault == "host":
                    crew.kill_host()
                    crew.start_host()
                elif fault:
                    victim = rng.choice([who for who in everybody if who.startswith(fault)])
                    processes[victim].kill()
                    processes[victim].wait()
            (folder / "over").touch()
            for process in processes.values():
                process.wait(60)
        finally:
            for process in processes.values():
                process.kill()
                process.wait()
        lost = {f"{s} {i}" for s in range(2) for i in range(each)} - got()
        found += [f"message {line} was lost" for line in sorted(lost)[:10]]
        client = crew.client()
        left = client.queue("work")
        deadline_s = time.monotonic() + 30
        while sum(client.ask("counts")[x] for x in ("waiting", "running")) and time.monotonic() < deadline_s:
            left.drain()  # what killed receivers had comes back, in a while
        client.close()
    found += troubles(read_facts(folder))
    return {"seed": seed, "faults": plan, "wall_s": round(time.monotonic() - began_s, 1), "troubles": found[:20]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=50, help="schedules of each kind")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", choices=["tasks", "messages"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows: dict[str, list[dict[str, Any]]] = {}
    kinds = {"tasks": run_tasks, "messages": run_messages}
    for kind, run in kinds.items():
        if args.only in (None, kind):
            rows[kind] = []
            for seed in range(args.first, args.first + args.seeds):
                with tempfile.TemporaryDirectory() as folder:
                    row = run(seed, Path(folder))
                rows[kind].append(row)
                print(
                    f"{kind} {seed}: {row['wall_s']} s {row['troubles'] or 'all is well'}", file=sys.stderr, flush=True
                )
    bad = [row for kind in rows.values() for row in kind if row["troubles"]]
    result = {
        "what": f"{TASKS} tasks, or {MESSAGES} messages, under seeded kills of real processes",
        **rows,
        "failed": len(bad),
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
