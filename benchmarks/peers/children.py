"""Everything that a peer's script starts: found, weighed, and stopped.

The script's process adopts whatever its children leave behind (PR_SET_CHILD_SUBREAPER), so that "everything below me"
is the whole system, daemons too. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
AGAIN_S = 0.5
GRACE_S = 5.0  # a Celery worker ends when what it has prefetched is done


def below(pid: int) -> list[int]:
    """All processes that `pid` started, and those that they started; parents before children."""
    children: list[int] = []
    for task in (Path("/proc") / str(pid) / "task").glob("*/children"):
        with contextlib.suppress(OSError):
            children += [int(word) for word in task.read_text().split()]
    return children + [x for child in children for x in below(child)]


def kill(pids: list[int]) -> None:
    """As kill -9 does; who is gone already is none of our business."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def start(command: list[str], log: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Out of reach of a terminal's Ctrl-C: who started it stops it."""
    with log.open("ab") as file:
        options |= {"stdout": file, "stderr": file, "stdin": subprocess.DEVNULL}
        return subprocess.Popen(command, start_new_session=True, **options)


def memory_mb(pids: list[int]) -> dict[str, float]:
    """Sums over the processes. rss counts a page that several share for each of them, pss once."""
    sums = {"Rss": 0, "Pss": 0}
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in (Path("/proc") / str(pid) / "smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name in sums:
                    sums[name] += int(rest.split()[0])
    return {f"idle_{name.lower()}_mb": round(kb * 1024 / 1e6, 1) for name, kb in sums.items()}


def stop_all() -> None:
    """Asks politely, waits, kills, until nothing is below this process."""
    begin_cleaning()
    for sent in (signal.SIGTERM, signal.SIGKILL):
        until_s = time.monotonic() + GRACE_S
        pids = below(os.getpid())
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sent)
        while time.monotonic() < until_s:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    time.sleep(0.02)
            except ChildProcessError:
                return
            if sent == signal.SIGKILL:  # what was born since
                kill(below(os.getpid()))


def _leave(number: int, frame: Any) -> None:
    """Again and again until the cleaning begins: what is raised within a `__del__` is lost."""
    signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    sys.exit(128 + number)


def begin_cleaning() -> None:
    """From now on nothing interrupts this process; what it still does must be bounded."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A private folder for everything that is started; at the end, whatever the reason, all is stopped and it is gone.

    Its path is short, because some put Unix sockets there.
    """
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in ENDING:
        signal.signal(number, _leave)
    with tempfile.TemporaryDirectory(prefix="pb-", ignore_cleanup_errors=True) as path:
        try:
            yield Path(path)
        finally:
            stop_all()
