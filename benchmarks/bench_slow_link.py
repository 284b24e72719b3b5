"""Do bulk data on a link of 5 Mbit/s hold up heartbeats? Two machines of network namespaces, learners that saturate it.

Four learners on machine b join the run on machine a over the slow link; their pushes, of 0.7 MB each, come faster than
the link carries them. The way back has the same rate (then they wait for versions, too), and in a second run twice that.
Counted, as the coordinator saw it: the longest silence of these learners against their deadlines, deadlines that were
missed, generations that ended. Writes benchmarks/results/slow_link.json.
Needs `ip`, `tc` and root, or: .ci/with-namespaces python benchmarks/bench_slow_link.py
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from plesio.testing.machines import BURST, QUEUE, Machines

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tests" / "scripts" / "paced.py"
PLESIO = [sys.executable, "-m", "plesio"]
RATE_MBIT = 5
WIDTH = 20_000  # 34 parameters each: a push in int8 is of 0.7 MB
STEP_S = 0.05
EVERY = 8
SLOW = 40  # the learner beside the coordinator takes so many times as long a step
NAMES = ("far-0", "far-1", "far-2", "far-3")


def rows(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON lines; none while there is no file."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def learners(run_dir: Path) -> dict[str, dict[str, Any]]:
    """The newest metrics of the learners far away."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows(run_dir / "metrics.jsonl"):
        found |= {name: row["learners"][name] for name in NAMES if name in row["learners"]}
    return found


def pushes(run_dir: Path) -> dict[str, int]:
    """How many of each one's pushes have arrived."""
    accepted = [x for x in rows(run_dir / "events.jsonl") if x["type"] == "ContributionAccepted"]
    return {name: sum(x["contribution"]["contributor"] == name for x in accepted) for name in NAMES}


def wait_for_pushes(run_dir: Path, count: int, processes: list[subprocess.Popen[str]]) -> None:
    """Until each of them has arrived so often."""
    until_s = time.monotonic() + 180
    while min(pushes(run_dir).values()) < count:
        for process in processes:
            if process.poll() is not None:
                raise SystemExit(f"ended too early: {process.communicate()[1][-2000:]}")
        if time.monotonic() > until_s:
            raise SystemExit("the learners far away did not begin to push")
        time.sleep(0.5)


def measure(machines: Machines, folder: Path, seconds: float) -> dict[str, Any]:
    """Runs for so long from the first push of local steps on."""
    script = [str(SCRIPT), str(STEP_S), str(WIDTH)]
    words = ["run", "--json", "--name", "r", "--learners", "1", "--epochs", "100000", "--every", str(EVERY)]
    words += ["--start-rounds", "0", "--slow", f"learner-0={SLOW}", "--listen", "0.0.0.0:7700"]
    processes = [machines.start("a", [*PLESIO, *words, "--token-file", "secret", *script], folder)]
    run_dir = folder / "runs" / "r"
    try:
        while not (folder / "secret").exists() or not rows(run_dir / "events.jsonl"):
            time.sleep(0.2)
        join = [
            "join",
            f"{machines.address('a')}:7700",
            "--token-file",
            "secret",
            "--name",
            "far",
            "--learners",
            str(len(NAMES)),
        ]
        processes.append(machines.start("b", [*PLESIO, *join, *script], folder))
        wait_for_pushes(run_dir, 2, processes)
        before, began_s, first = machines.sent_bytes("b"), time.monotonic(), pushes(run_dir)
        load = []
        while time.monotonic() < began_s + seconds:
            time.sleep(min(5.0, seconds))
            load.append(os.getloadavg()[0])
            for process in processes:
                if process.poll() is not None:
                    raise SystemExit(f"ended too early: {process.communicate()[1][-2000:]}")
        after, spent_s, last = machines.sent_bytes("b"), time.monotonic() - began_s, pushes(run_dir)
        seen, story = learners(run_dir), rows(run_dir / "events.jsonl")
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGINT)
        for process in processes:
            try:
                process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
    joined = [x for x in story if x["type"] == "MemberJoined" and x["name"] in NAMES]
    ended = [x for x in story if x["type"] == "MemberEnded" and x["name"] in NAMES]
    up, down = (8e-6 * (b - a) / spent_s for a, b in zip(before, after, strict=True))
    return {
        "seconds": round(spent_s, 1),
        "carried_mbit_per_s": {"up": round(up, 2), "down": round(down, 2)},
        "pushes_arrived": {name: last[name] - first[name] for name in NAMES},
        "longest_silence_s": {name: seen[name]["longest_silence_s"] for name in NAMES},
        "least_deadline_s": min(x["deadline_s"] for x in seen.values()),
        "missed_deadlines": sum(x["missed_deadlines"] for x in seen.values()),
        "generations": len(joined),
        "ended": [x["reason"] for x in ended],
        "load": {"mean": round(sum(load) / len(load), 2), "max": max(load)},
    }


def one(down: float, seconds: float) -> dict[str, Any]:
    """A run on new machines; down: Mbit/s."""
    machines = Machines("ab")
    try:
        machines.build()
        machines.slow_down("b", f"{RATE_MBIT}mbit", f"{down:g}mbit")
        with tempfile.TemporaryDirectory() as folder:
            return measure(machines, Path(folder), seconds)
    finally:
        machines.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="of bulk data")
    parser.add_argument("--json", action="store_true", help="the result on stdout too")
    parser.add_argument("--keep", action="store_true", help="leave benchmarks/results as it is")
    parser.add_argument("--down", default="5,10", help="Mbit/s of the way to the learners; a run for each")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(1))  # the machines are deleted
    runs = []
    for down in map(float, args.down.split(",")):
        runs.append({"link_mbit_per_s": {"up": RATE_MBIT, "down": down}, **one(down, args.seconds)})
        print(json.dumps(runs[-1]), file=sys.stderr)
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    result = {
        "what": f"{len(NAMES)} learners that saturate a link of {RATE_MBIT} Mbit/s (tbf, burst {BURST}, queue {QUEUE})",
        "runs": runs,
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "commit": git.stdout.strip(),
    }
    if not args.keep:
        path = ROOT / "benchmarks" / "results" / "slow_link.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
    if args.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
