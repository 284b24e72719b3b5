"""Processes that use one of everything that coordinates, under kills and pauses of them and of the coordinator.

See lockwork.py for what they do and note, linear.py for how it is checked, and `make lock-chaos`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from plesio.core.pool.places import LEASE_S
from plesio.testing.linear import is_linearizable
from plesio.testing.lockwork import MODELS, STOP, histories
from plesio.testing.poolcrew import PoolCrew
from plesio.testing.waiting import wait_for

WORKERS = 4
ROUNDS = 5
FAULTS = ("killed", "killed", "paused", "coordinator")
WAIT_S = 60.0


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
        self.alive[path.name] = subprocess.Popen([sys.executable, "-m", "plesio.testing.lockwork", *words])

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

    def wait_until_used(self) -> None:
        """One of everything, by somebody, however long they take to begin."""
        wait_for(lambda: all(histories(self.files(), self.faults_s).values()), "one of everything is used", WAIT_S)

    def end(self) -> None:
        """All who live have what they wait for, in time, and end."""
        (self.folder / STOP).touch()
        for name, process in self.alive.items():
            code = process.wait(WAIT_S)
            assert code == 0, f"{name} ended with {code}"


def run(seed: int, folder: Path, rounds: int = ROUNDS) -> dict[str, Any]:
    """One schedule of so many rounds of FAULTS. Returns what was done, and 'troubles': what cannot have happened."""
    rng, began_s = random.Random(seed), time.monotonic()
    done: Counter[str] = Counter()
    (folder / "pool").mkdir(parents=True)
    with PoolCrew(folder / "pool") as crew, Workers(crew, folder, seed) as workers:
        workers.wait_until_used()
        for _ in range(rounds):
            for fault in rng.sample(FAULTS, len(FAULTS)):
                time.sleep(rng.uniform(0.3, 1.5))
                workers.suffer(fault, rng)
                done[fault] += 1
        workers.end()
    found = histories(workers.files(), workers.faults_s)
    troubles = [f"{what}: not linearizable" for what, ops in found.items() if not is_linearizable(ops, MODELS[what])]
    lost = sum(op.result == "lost" for ops in found.values() for op in ops)
    wall_s = round(time.monotonic() - began_s, 1)
    counts = {what: len(ops) for what, ops in found.items()}
    return {
        "seed": seed, "faults": dict(done), "operations": counts, "lost": lost, "wall_s": wall_s, "troubles": troubles,
    }  # fmt: skip


def main() -> None:
    """So many seeds; what came of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in range(args.first, args.first + args.seeds):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(row := run(seed, Path(folder) / "storm"))
        print(f"{seed}: {row['wall_s']} s {row['troubles'] or 'all is well'}", file=sys.stderr, flush=True)
    failed = sum(bool(row["troubles"]) for row in rows)
    result = {
        "what": f"{WORKERS} processes that use one of each, under kills and pauses; a wait at the barrier is two operations",
        "operations": {what: sum(row["operations"][what] for row in rows) for what in MODELS},
        "schedules": rows,
        "failed": failed,
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
