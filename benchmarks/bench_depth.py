"""A queue with a million tasks in it: is it as fast as one with a thousand, and how long does a restart take?

A real pool with two slots and no-op tasks. At each depth: PROBE tasks are submitted behind those that wait in a paused
queue, until they are durable (submit_per_s); then the queue goes on, until PROBE tasks have ended (dispatch_per_s). With the
deep queue, the coordinator is killed, and timed until it answers and until a task of another queue has ended. Depths take
turns; medians. Writes benchmarks/results/depth.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from plesio.testing.poolcrew import PoolCrew
from plesio.testing.waiting import wait_for

ROOT = Path(__file__).parents[1]
NOOP = "plesio.tasks.noop:noop"
PROBE = 20_000


def probe(crew: PoolCrew, depth: int, restart: bool) -> dict[str, Any]:
    """One pool, filled to `depth`."""
    client = crew.client()
    crew.wait_for_slots(client, 2)
    client.gather([client.submit(NOOP) for _ in range(5000)])  # a warm-up
    client.set_queue("deep", paused=True, capacity=5_000_000)
    began_s = time.perf_counter()
    filling = [client.submit(NOOP, queue="deep") for _ in range(depth)]
    client.flush(600)
    row: dict[str, Any] = {"depth": depth, "fill_per_s": round(depth / (time.perf_counter() - began_s))}
    began_s = time.perf_counter()
    probes = [client.submit(NOOP, queue="deep") for _ in range(PROBE)]
    client.flush(600)
    row["submit_per_s"] = round(PROBE / (time.perf_counter() - began_s))
    if restart:
        crew.kill_coordinator()
        began_s = time.perf_counter()
        client.ask("waiting", "deep")
        row["answers_after_s"] = round(time.perf_counter() - began_s, 2)
        assert client.submit(NOOP).result(60) is None
        row["first_task_after_s"] = round(time.perf_counter() - began_s, 2)
        client.gather([client.submit(NOOP) for _ in range(5000)])
        wait_for(lambda: client.ask("waiting", "deep") == depth + PROBE, "all of them wait")
    waiting = (filling + probes)[:PROBE]  # first in, first out
    began_s = time.perf_counter()
    client.set_queue("deep", capacity=5_000_000)
    waiting[-1].result(120)
    row["dispatch_per_s"] = round(PROBE / (time.perf_counter() - began_s))
    client.set_queue("deep", paused=True, capacity=5_000_000)
    client._link._closed = True  # a million futures need not be waited for
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--deep", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "depth.json")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for round in range(args.rounds):
        for depth in (1000, args.deep) if round % 2 == 0 else (args.deep, 1000):
            with tempfile.TemporaryDirectory() as folder, PoolCrew(Path(folder)) as crew:
                crew.start_node("a", 2)
                rows.append(probe(crew, depth, restart=depth != 1000))
            print(rows[-1], file=sys.stderr, flush=True)
    found: dict[str, Any] = {}
    for key in ("submit_per_s", "dispatch_per_s"):
        at = {depth: statistics.median(r[key] for r in rows if r["depth"] == depth) for depth in (1000, args.deep)}
        found[key] = {"at_1000": at[1000], "deep": at[args.deep], "ratio": at[args.deep] / at[1000]}
    for key in ("answers_after_s", "first_task_after_s"):
        found[key] = statistics.median(row[key] for row in rows if key in row)
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    result = {
        "what": f"{PROBE} no-op tasks at a depth of 1000 and of {args.deep}, 2 slots",
        **found,
        "rows": rows,
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "commit": git.stdout.strip(),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
