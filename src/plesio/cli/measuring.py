"""What `plesio bench tasks` does: fresh pools, each with a client in a fresh process, and what they cost.

The client is this module as a program: it starts the pool, says when it had its first result, and, of the last pool,
everything else.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import plesio
from plesio.errors import PlesioError
from plesio.runtime.hostsettings import started

NOOP = "plesio.tasks.noop:noop"
ROUNDS = 3
WARM = 2_000
ONE_BY_ONE = 1_000
SETTLE_S = 1.0
CLIENT_S = 600.0
JOURNAL = {
    "normal": "a crash of any process costs nothing that was acknowledged; a power cut may cost the last moments",
    "full": "neither a crash of any process nor a power cut costs anything that was acknowledged",
}
Sync = Literal["normal", "full"]


def measure(tasks: int, workers: int, sync: Sync) -> dict[str, Any]:
    """All figures; first_result_s is the median of some fresh pools."""
    firsts: list[float] = []
    for number in range(ROUNDS):
        last = number == ROUNDS - 1
        began_s = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="plesio-bench-") as folder:
            told = _client(Path(folder), workers, sync, tasks if last else 0)
        firsts.append(told.pop("first_at_s") - began_s)
    return {
        "tasks": tasks,
        "workers": workers,
        "sync": sync,
        **{key: round(value, 6) for key, value in told.items()},
        "first_result_s": round(statistics.median(firsts), 4),
        "journal": JOURNAL[sync],
        "cores": os.cpu_count(),
    }


def report(figures: dict[str, Any], as_json: bool) -> None:
    """On stdout."""
    if as_json:
        print(json.dumps(figures))
        return
    for key, value in figures.items():
        print(f"{key:18}{value}")


def _client(folder: Path, workers: int, sync: Sync, tasks: int) -> dict[str, float]:
    """Ends its pool, too, before it returns: that takes nothing from the next one."""
    words = [sys.executable, "-m", "plesio.cli.measuring", str(folder), str(workers), sync, str(tasks)]
    done = subprocess.run(words, stdout=subprocess.PIPE, timeout=CLIENT_S, check=False)
    if done.returncode:
        raise PlesioError(f"the measuring client ended with code {done.returncode}")
    told: dict[str, float] = json.loads(done.stdout)
    host = int(told.pop("host"))
    with contextlib.suppress(ProcessLookupError):
        os.kill(host, signal.SIGTERM)
    while _runs(host):
        time.sleep(0.02)
    return told


def main() -> None:
    """The client: FOLDER WORKERS SYNC TASKS; tasks 0: its first result only."""
    folder, workers, sync, tasks = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    assert sync in ("normal", "full")
    with plesio.connect(folder=folder, workers=workers, sync=sync) as client:
        client.submit(NOOP).result()
        told: dict[str, Any] = {"first_at_s": time.monotonic()}
        host = int(json.loads((Path(folder) / "address.json").read_bytes())["pid"])
        if tasks:
            told |= _figures(client, host, tasks)
    print(json.dumps(told | {"host": host}))


def _figures(client: Any, host: int, tasks: int) -> dict[str, float]:
    time.sleep(SETTLE_S)
    idle = memory_mb(family(host))
    _all_at_once(client, min(tasks, WARM))
    rounds = [_timed(lambda: _all_at_once(client, tasks), host) for _ in range(ROUNDS)]
    alone = sorted(_one(client) for _ in range(ONE_BY_ONE))
    time.sleep(SETTLE_S)
    loaded = memory_mb(family(host))
    return {
        "tasks_per_s": tasks / statistics.median(wall_s for _, wall_s, _ in rounds),
        "submit_per_s": tasks / statistics.median(submit_s for submit_s, _, _ in rounds),
        "p50_ms": 1e3 * alone[len(alone) // 2],
        "p99_ms": 1e3 * alone[len(alone) * 99 // 100],
        "cpu_s": statistics.median(used_s for _, _, used_s in rounds),
        "idle_rss_mb": idle[0],
        "idle_pss_mb": idle[1],
        "loaded_rss_mb": loaded[0],
        "loaded_pss_mb": loaded[1],
    }


def _timed(work: Callable[[], float], host: int) -> tuple[float, float, float]:
    """(what `work` returns, wall seconds, CPU seconds of the client and the pool)."""
    used_s, began_s = _cpu_s(host), time.perf_counter()
    told = work()
    return told, time.perf_counter() - began_s, _cpu_s(host) - used_s


def _all_at_once(client: Any, count: int) -> float:
    """How long submitting took."""
    began_s = time.perf_counter()
    futures = [client.submit(NOOP) for _ in range(count)]
    submitted_s = time.perf_counter() - began_s
    client.gather(futures)
    return submitted_s


def _one(client: Any) -> float:
    began_s = time.perf_counter()
    client.submit(NOOP).result()
    return time.perf_counter() - began_s


# -- processes, as Linux tells of them


def family(host: int) -> list[int]:
    """A process and all that descend from it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        fields = _read(path / "stat").rpartition(")")[2].split()
        if fields:
            parents[int(path.name)] = int(fields[1])
    found = [host]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def memory_mb(pids: list[int]) -> tuple[float, float]:
    """(resident, proportional) of all together: what processes share counts in each, or once."""
    told = [line.split() for pid in pids for line in _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines()]
    return tuple(sum(int(words[1]) for words in told if words[0] == key) / 1024 for key in ("Rss:", "Pss:"))  # type: ignore[return-value]


def _runs(pid: int) -> bool:
    try:
        return started(pid) > 0
    except OSError:
        return False


def _cpu_s(host: int) -> float:
    ticks = 0
    for pid in (*family(host), os.getpid()):
        fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12]) if fields else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def _read(path: Path) -> str:
    """'' when the process has gone."""
    try:
        return path.read_text()
    except OSError:
        return ""


if __name__ == "__main__":
    main()
