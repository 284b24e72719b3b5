"""What `plesio bench tasks` does: fresh pools, each with a client in a fresh process; see measured.py for the client."""

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
from typing import Any, Literal

from plesio.errors import PlesioError
from plesio.runtime.hostsettings import started, usable_cores

STARTS = 3
CLIENT_S = 600.0
JOURNAL = {
    "normal": "a crash of any process costs nothing that was acknowledged; a power cut may cost the last moments",
    "full": "neither a crash of any process nor a power cut costs anything that was acknowledged",
}
Sync = Literal["normal", "full"]


def measure(tasks: int, workers: int, sync: Sync) -> dict[str, Any]:
    """All figures of the last pool; first_result_s is the median of all, from before the client's process began."""
    firsts: list[float] = []
    told: dict[str, float] = {}
    for number in range(STARTS):
        began_s = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="plesio-bench-") as folder:
            told = _client(folder, workers, sync, tasks if number == STARTS - 1 else 0)
        firsts.append(told.pop("first_at_s") - began_s)
    return {
        "tasks": tasks,
        "workers": workers,
        "sync": sync,
        **{key: round(value, 3) for key, value in told.items()},
        "first_result_s": round(statistics.median(firsts), 3),
        "journal": JOURNAL[sync],
        "cores": usable_cores(),
    }


def report(figures: dict[str, Any], as_json: bool) -> None:
    """On stdout."""
    if as_json:
        print(json.dumps(figures))
        return
    for key, value in figures.items():
        print(f"{key:18}{value}")


def _client(folder: str, workers: int, sync: Sync, tasks: int) -> dict[str, float]:
    """Ends its pool, too, before it returns: that takes nothing from the next one."""
    words = [sys.executable, "-m", "plesio.cli.measured", folder, str(workers), sync, str(tasks)]
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


def _runs(pid: int) -> bool:
    try:
        return started(pid) > 0
    except OSError:
        return False
