"""The client of `plesio bench tasks`, a program: FOLDER WORKERS SYNC TASKS. Tasks 0: its first result only.

It prints what it measured as JSON. Until its first result it imports nothing that a user's program would not.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plesio

NOOP = "plesio.tasks.noop:noop"
ROUNDS = 3
WARM = 2_000
ONE_BY_ONE = 1_000
SETTLE_S = 1.0


def main() -> None:
    folder, workers, sync, tasks = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    assert sync in ("normal", "full")
    with plesio.connect(folder=folder, workers=workers, sync=sync) as client:
        client.submit(NOOP).result()
        told: dict[str, float] = {"first_at_s": time.monotonic()}
        import json

        from plesio.runtime.hostsettings import running

        found = running(Path(folder))
        assert found is not None
        if tasks:
            told |= _figures(client, found.pid, tasks)
    print(json.dumps(told | {"host": found.pid}))


def _figures(client: Any, host: int, tasks: int) -> dict[str, float]:
    from statistics import median

    time.sleep(SETTLE_S)
    idle_rss, idle_pss = memory_mb(family(host))
    _all_at_once(client, min(tasks, WARM))
    rounds = [_timed(lambda: _all_at_once(client, tasks), host) for _ in range(ROUNDS)]
    alone = sorted(_one(client) for _ in range(ONE_BY_ONE))
    time.sleep(SETTLE_S)
    loaded_rss, loaded_pss = memory_mb(family(host))
    return {
        "tasks_per_s": tasks / median(wall_s for _, wall_s, _ in rounds),
        "submit_per_s": tasks / median(submit_s for submit_s, _, _ in rounds),
        "p50_ms": 1e3 * alone[len(alone) // 2],
        "p99_ms": 1e3 * alone[len(alone) * 99 // 100],
        "cpu_s": median(used_s for _, _, used_s in rounds),
        "idle_rss_mb": idle_rss,
        "idle_pss_mb": idle_pss,
        "loaded_rss_mb": loaded_rss,
        "loaded_pss_mb": loaded_pss,
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
        fields = _stat(int(path.name))
        if fields:
            parents[int(path.name)] = int(fields[1])
    found = [host]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def memory_mb(pids: list[int]) -> tuple[float, float]:
    """(resident, proportional) of all together: what processes share counts in each of them, or once."""
    rss = pss = 0
    for pid in pids:
        for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
            name, _, amount = line.partition(":")
            rss += int(amount.split()[0]) if name == "Rss" else 0
            pss += int(amount.split()[0]) if name == "Pss" else 0
    return rss / 1024, pss / 1024


def _cpu_s(host: int) -> float:
    import os

    ticks = 0
    for pid in (*family(host), os.getpid()):
        fields = _stat(pid)
        ticks += int(fields[11]) + int(fields[12]) if fields else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    """The fields after the name: state, parent, ...; none when the process has gone."""
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


if __name__ == "__main__":
    main()
