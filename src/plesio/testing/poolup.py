"""A pool as users start one, `plesio up`, for tests: with its own slot, so that it hosts runs."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from plesio.errors import PlesioError
from plesio.tasks.embedded import attach
from plesio.testing.poolcrew import children
from plesio.testing.waiting import kept_port, wait_for

PLESIO = (sys.executable, "-m", "plesio")


class PoolUp:
    """Owns the process; `with` ends it and all that it started. Commands are run in `code`, a folder of its own."""

    def __init__(self, folder: Path, workers: int = 2) -> None:
        self.folder, self.workers = folder / "pool", workers
        self.code = folder / "code"
        self.code.mkdir(exist_ok=True)
        self._kept = contextlib.ExitStack()
        self.port, self.http_port = (self._kept.enter_context(kept_port()) for _ in range(2))
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PoolUp:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        with self._kept:
            self.kill()

    def up(self) -> None:
        """Starts it, or starts it again, at the same port."""
        command = (
            *PLESIO, "up", "--listen", f"127.0.0.1:{self.port}", "--workers", str(self.workers), "--dir",
            str(self.folder), "--http", str(self.http_port),
        )  # fmt: skip
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: self._slots() > self.workers, "its slots", 60)

    def _slots(self) -> int:
        """That are connected; 0 while there is no pool. Asked without a process, whose start would hold up the pool's."""
        with contextlib.suppress(PlesioError, TimeoutError), attach(self.folder) as client:
            return sum(row["connected"] for row in client.ask("workers"))
        return 0

    def kill(self) -> None:
        """As a machine that loses power."""
        if self.process is not None:
            left = descendants(self.process.pid)
            self.process.kill()
            self.process.wait()
            wait_for(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() and alive(pid) for pid in left), "no one is left")
            self.process = None

    def down(self) -> int:
        """As Ctrl-C. Its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(90)
        self.process = None
        return code

    def command(self, *words: str) -> subprocess.Popen[str]:
        """A command, begun."""
        return subprocess.Popen(
            (*PLESIO, *words), cwd=self.code, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def ask(self, *words: str) -> Any:
        """What a command prints as JSON, to the one key that lists have; [] when there is no pool."""
        process = self.command(*words, "--dir", str(self.folder), "--json")
        out, _ = process.communicate(timeout=120)
        if process.returncode:
            return []
        told = json.loads(out)
        return told[words[0]] if words[-1] in ("ls", "dead") else told.get("workers", told)

    def run(self, run: str) -> dict[str, Any]:
        """What `plesio runs show` says."""
        told: dict[str, Any] = self.ask("runs", "show", run) or {}
        return told

    def wait_for_run(self, run: str, *states: str, limit_s: float = 120.0) -> dict[str, Any]:
        """Until it is in one of these states."""
        wait_for(lambda: self.run(run).get("state") in states, f"run {run} is {' or '.join(states)}", limit_s)
        return self.run(run)

    def wait_for_tokens(self, run: str, tokens: int) -> None:
        """Until it has committed so many."""
        wait_for(lambda: (self.run(run).get("tokens") or 0) >= tokens, f"run {run} has {tokens} tokens", 120)


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    return [found for child in children(pid) for found in (child, *descendants(child))]


def alive(pid: int) -> bool:
    """Is it there, and no zombie?"""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
