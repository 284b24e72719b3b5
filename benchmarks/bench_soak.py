"""Does anything grow with a run's length? A real run with kills now and then, all memory and all files sampled.

Coordinator, synchronizer and three paced learners on this machine; the slope of each series after the warm-up, by
least squares, in MB an hour with its standard error. Writes benchmarks/results/soak.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LEARNERS = 3
VICTIMS = ("learner-1", "synchronizer", "learner-2", "coordinator")  # learner-0 lives as long as the run
OPTIONS = ["--learners", str(LEARNERS), "--every", "4", "--start-rounds", "40", "--epochs", "1000000"]
SAMPLE_S = 5.0
MB = 1e6

# A model of 34,000 parameters, its steps paced, so that three learners take a small share of a core.
SCRIPT = """
import sys, time
import torch
from torch import nn
import plesio

torch.manual_seed(0)
x = torch.randn(4096, 32)
y = torch.sin(x.sum(1, keepdim=True))
model = nn.Sequential(nn.Linear(32, 1000), nn.Tanh(), nn.Linear(1000, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
run = plesio.join()
learner = run.learner(model, optimizer, evaluate=lambda m: nn.functional.mse_loss(m(x), y).item())
for unit in run.units(4096, 4):
    time.sleep(float(sys.argv[1]))
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x[unit.samples]), y[unit.samples]).backward()
    optimizer.step()
    learner.step(tokens=len(unit))
"""


class Processes:
    """Which process of the run has which pid; looked up anew now and then, because they are killed."""

    def __init__(self, command: int) -> None:
        self.command = command

    def now(self) -> dict[str, int]:
        """name -> pid, of the command, its zygote and everything that they started."""
        found = {"command": self.command}
        for pid in self._below(self.command):
            found[self._name(pid)] = pid
        return found

    def _below(self, pid: int) -> list[int]:
        children: list[int] = []
        for task in (Path("/proc") / str(pid) / "task").glob("*/children"):
            try:
                children += [int(word) for word in task.read_text().split()]
            except OSError:
                continue
        return children + [x for child in children for x in self._below(child)]

    def _name(self, pid: int) -> str:
        """A forked process keeps the zygote's environment in /proc: its log's name tells who it is."""
        try:
            log = Path(os.readlink(f"/proc/{pid}/fd/1"))
        except OSError:
            return "gone"
        return log.name.partition(".")[0]


def rss_bytes(pid: int) -> tuple[int, int]:
    """(resident, of which is the process's own) bytes; zeros when it is gone."""
    try:
        rows = (Path("/proc") / str(pid) / "smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return 0, 0
    sizes = {key: int(value.split()[0]) * 1024 for key, value in (row.split(":", 1) for row in rows)}
    return sizes["Rss"], sizes["Private_Clean"] + sizes["Private_Dirty"]


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far."""
    try:
        fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def files(run_dir: Path) -> dict[str, int]:
    """Bytes on disk, by what they are."""
    sizes: dict[str, int] = {}
    for path in run_dir.rglob("*"):
        try:
            size_bytes = path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
        if path.is_dir():
            continue
        what = path.name
        if path.parent.name == "logs":
            what = "logs"
        elif what.startswith("journal.db"):
            what = "journal.db and its log"
        elif what.startswith("snapshot-"):
            what = "snapshots"
        elif what.startswith("spans"):
            what = "spans"
        sizes[what] = sizes.get(what, 0) + size_bytes
    sizes["whole folder"] = sum(sizes.values())
    return sizes


def slope(points: list[tuple[float, float]]) -> dict[str, float]:
    """Least squares over (seconds, bytes): MB an hour and its standard error, which ignores autocorrelation."""
    n = len(points)
    if n < 3:
        return {"mb_per_hour": math.nan, "standard_error": math.nan, "samples": n}
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    per_s = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    rest = sum((y - mean_y - per_s * (x - mean_x)) ** 2 for x, y in points)
    error = math.sqrt(rest / (n - 2) / spread)
    scale = 3600 / MB
    return {
        "mb_per_hour": round(per_s * scale, 4),
        "standard_error": round(error * scale, 4),
        "samples": n,
        "first_mb": round(points[0][1] / MB, 3),
        "last_mb": round(points[-1][1] / MB, 3),
        "most_mb": round(max(y for _, y in points) / MB, 3),
    }


def late(points: list[tuple[float, float]]) -> dict[str, float]:
    """The slope of the second half: lower, where what grows comes to an end."""
    half = slope(points[len(points) // 2 :])
    return {key: half[key] for key in ("mb_per_hour", "standard_error")}


class Soak:
    """One run under observation. Owns its samples."""

    def __init__(self, run_dir: Path, command: subprocess.Popen[bytes], kill_every_s: float) -> None:
        self.run_dir = run_dir
        self.command = command
        self.processes = Processes(command.pid)
        self.kill_every_s = kill_every_s
        self.began_s = time.monotonic()
        self.memory: dict[str, dict[int, list[tuple[float, float]]]] = {}  # of each life of each process
        self.disk: dict[str, list[tuple[float, float]]] = {}
        self.cpu: dict[int, float] = {}
        self.kills: list[tuple[float, str]] = []

    def watch(self, seconds: float) -> None:
        """Samples, and kills, for so long."""
        while (now_s := time.monotonic() - self.began_s) < seconds:
            if self.command.poll() is not None:
                raise SystemExit(f"the run ended after {now_s:.0f} s with code {self.command.returncode}")
            self._sample(now_s)
            due = len(self.kills) + 1
            if now_s >= due * self.kill_every_s and now_s < seconds - 30:
                self._kill(VICTIMS[(due - 1) % len(VICTIMS)], now_s)
            time.sleep(SAMPLE_S)

    def _sample(self, now_s: float) -> None:
        for name, pid in self.processes.now().items():
            _, own = rss_bytes(pid)
            if own:
                self.memory.setdefault(name, {}).setdefault(pid, []).append((now_s, own))
            self.cpu[pid] = max(self.cpu.get(pid, 0.0), cpu_s(pid))
        for what, size_bytes in files(self.run_dir).items():
            self.disk.setdefault(what, []).append((now_s, size_bytes))

    def _kill(self, name: str, now_s: float) -> None:
        pid = self.processes.now().get(name)
        self.kills.append((round(now_s, 1), name))
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        print(f"{now_s:7.1f} s  killed {name}", file=sys.stderr, flush=True)

    def result(self, warm_s: float) -> dict[str, Any]:
        """Slopes. Of a process that was killed, each life counts from `warm_s` after its start; the longest is told."""
        memory = {}
        for name, lives in sorted(self.memory.items()):
            told = [[(x, y) for x, y in life if x >= life[0][0] + warm_s] for life in lives.values()]
            longest = max(told, key=len)
            memory[name] = {**slope(longest), "late": late(longest), "lives": len(lives)}
        kept = {what: [p for p in points if p[0] >= warm_s] for what, points in sorted(self.disk.items())}
        disk = {what: {**slope(points), "late": late(points)} for what, points in kept.items()}
        return {
            "own_memory": memory,
            "disk": disk,
            "cores_used": round(sum(self.cpu.values()) / (time.monotonic() - self.began_s), 3),
            "kills": self.kills,
        }


def table(result: dict[str, Any]) -> str:
    """For people."""
    heads = ("MB/hour", "+-", "2nd half", "+-", "first MB", "last MB", "most MB")
    lines = [" " * 28 + "".join(f"{head:>10}" for head in heads)]
    for group in ("own_memory", "disk"):
        for name, row in result[group].items():
            sizes = (row.get(key, 0.0) for key in ("first_mb", "last_mb", "most_mb"))
            figures = [row["mb_per_hour"], row["standard_error"], *row["late"].values(), *sizes]
            lines.append(f"{name:28}" + "".join(f"{x:10.3f}" for x in figures))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--step-s", type=float, default=0.03, help="pause of a learner's step")
    parser.add_argument("--kill-every-s", type=float, default=150.0)
    parser.add_argument(
        "--warm-s", type=float, default=240.0, help="left out of the slopes, of each process's life too"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "soak.json")
    parser.add_argument("--json", action="store_true", help="the result on stdout as well")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "paced.py"
        script.write_text(SCRIPT)
        words = ["run", "--json", "--runs", folder, "--name", "soak", *OPTIONS, str(script), str(args.step_s)]
        errors = Path(folder) / "errors"
        with errors.open("wb") as stderr:
            command = subprocess.Popen([sys.executable, "-m", "plesio", *words], stdout=subprocess.PIPE, stderr=stderr)
        soak = Soak(Path(folder) / "soak", command, args.kill_every_s)
        try:
            soak.watch(60 * args.minutes)
        finally:
            command.send_signal(signal.SIGINT)
            said, _ = command.communicate(timeout=120)
        if command.returncode != 0:
            raise SystemExit(errors.read_text(errors="replace")[-3000:])
        summary = json.loads(said)
        git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
        result = {
            "what": f"{LEARNERS} learners, 34,001 parameters, Decoupled(H=4, int8), a kill every {args.kill_every_s:g} s",
            "minutes": args.minutes,
            "warm_s": args.warm_s,
            **soak.result(args.warm_s),
            "summary": {k: summary[k] for k in ("tokens", "rounds", "units", "faults", "coordinator_restarts")},
            "after_mb": {k: round(v / MB, 3) for k, v in files(Path(folder) / "soak").items()},
            "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
            "commit": git.stdout.strip(),
        }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result), file=sys.stderr)
    if args.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
