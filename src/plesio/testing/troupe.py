"""The commands of a chaos schedule, all their processes, and what they leave: found from outside, by /proc and files.

Each command is one machine: its processes carry its mark in their environment, whoever forked them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from plesio.reporting.events import Event, parse
from plesio.testing.waiting import Hung, wait_for

MARK = "PLESIO_CHAOS_MARK"
END_S = 90.0  # more than any run of a schedule still takes once its faults are injected


def marked(mark: str) -> list[int]:
    """Every process whose environment holds a mark that begins like this."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            with contextlib.suppress(OSError):
                if any(x.startswith(wanted) for x in (entry / "environ").read_bytes().split(b"\0")):
                    found.append(int(entry.name))
    return found


def state_of(pid: int) -> str:
    """'R', 'S', 'T', ... as the kernel says; '' when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


class Command:
    """A `plesio` command, and all that it started. Owns its process handle."""

    def __init__(self, mark: str, words: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.mark = mark
        self.folder = folder
        self.said = folder / f"{mark}.err"
        environment = {**os.environ, MARK: mark, "OMP_NUM_THREADS": "1", **environment}
        with self.said.open("w") as said, (folder / f"{mark}.out").open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "plesio", *words], cwd=folder, env=environment,
                stdin=subprocess.DEVNULL, stdout=out, stderr=said,
            )  # fmt: skip

    def pid_of(self, name: str) -> int | None:
        """The process of this command that runs under this name just now: the one that writes its log."""
        for pid in marked(self.mark):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/fd/1").endswith(f"/logs/{name}.log") and state_of(pid) not in ("Z", ""):
                    return pid
        return None

    def running(self, name: str) -> int:
        """The same; waits for one that is being started again."""
        found: int = wait_for(lambda: self.pid_of(name), f"{name} runs")
        return found

    def kill_all(self) -> None:
        """SIGKILL to the whole machine; returns when nothing of it is left."""
        for pid in (self.process.pid, *marked(self.mark)):
            send(pid, signal.SIGKILL)
        self.process.wait(10)
        wait_for(lambda: not marked(self.mark), f"{self.mark} is gone")

    def end(self, seconds: float = END_S) -> int:
        """Its exit code, once it ends by itself. Raises Hung."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Hung(f"{self.mark} did not end within {seconds:.0f} s") from None


def send(pid: int, signum: int) -> bool:
    """False: there is no such process."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return False
    return True


class Watch:
    """Follows events.jsonl of a run under way. Owns what it has read."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / "events.jsonl"
        self.events: list[Event] = []
        self._read_bytes = 0

    def update(self) -> list[Event]:
        """All events until now."""
        if not self.path.exists():
            return self.events
        with self.path.open("rb") as file:
            file.seek(self._read_bytes)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        events = [parse(row) for row in whole.splitlines()]
        if self.path.stat().st_size < self._read_bytes or None in events:  # a torn end was cut off: from the beginning
            self.events, self._read_bytes = [], 0
            return self.events
        self._read_bytes += len(whole)
        self.events += [event for event in events if event is not None]
        return self.events

    def of(self, kind: str, name: str = "", after_unix_s: float = 0.0) -> list[Event]:
        """Events of a kind until now, of one learner."""
        found = [e for e in self.update() if e["type"] == kind and e["unix_s"] >= after_unix_s]
        return [e for e in found if not name or e.get("name", e.get("contribution", {}).get("contributor")) == name]

    def merged_tokens(self) -> int:
        """In all versions that stand."""
        rounds: list[tuple[int, int]] = []
        for event in self.update():
            if event["type"] == "RoundClosed":
                rounds.append((event["version"][1], event["tokens"]))
            elif event["type"] == "RolledBack":
                rounds = [x for x in rounds if x[0] <= event["to"][1]]
        return sum(tokens for _, tokens in rounds)
