"""A run as its files tell it: the state that the coordinator has, folded again from events.jsonl and metrics.jsonl.

It reads only; the run may be under way on this machine, stopped, or finished.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import msgspec

from plesio.core.membership import Pulse
from plesio.core.state import Durable, apply
from plesio.core.turn import State
from plesio.records import Version
from plesio.reporting.events import Event, fact_of, parse, unpack
from plesio.reporting.story import Story
from plesio.runtime.status import StatusBoard
from plesio.wire import messages as m

SAMPLE_GAP_S = 2.5  # metrics come every second; learners count as silent after more than twice this


class Tail:
    """The whole lines of a growing file, each once. Owns its position.

    What a restart of the coordinator cuts off comes again byte for byte, so the position stays good. A file that was
    replaced by another of its name (thinned) is read from its start again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        self.inode = 0

    def read(self) -> list[bytes]:
        """The lines that are new; none while there is no file."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            self.position, self.inode = (self.position if inode == self.inode else 0), inode
            file.seek(self.position)
            rows = file.read().splitlines(keepends=True)
        if rows and not rows[-1].endswith(b"\n"):
            rows.pop()
        self.position += sum(map(len, rows))
        return rows


class RunFolder:
    """Follows one run's folder. Owns the folded state and the board that makes a Status of it."""

    def __init__(self, run_dir: Path) -> None:
        self.events = Tail(run_dir / "events.jsonl")
        self.metrics = Tail(run_dir / "metrics.jsonl")
        self.state = State()
        self.board = StatusBoard()
        self.written_unix_s = 0.0  # the newest sign of life
        self.skip = 0  # lines that follow, and are folded already

    def look(self, unix_s: float) -> m.Status | None:
        """The run at this time; None before it has started. Raises PlesioError when a line is damaged."""
        for row in self.events.read():
            event = parse(row)
            if event is not None:
                self._fold(event)
        rows = self.metrics.read()
        sample = parse(rows[-1]) if rows else None
        if sample is not None:
            self._measure(sample)
        if self.state.durable.spec is None:
            return None
        return self.board.status(self.state, unix_s)

    def _fold(self, event: Event) -> None:
        self.written_unix_s = max(self.written_unix_s, event["unix_s"])
        if self.skip:
            self.skip -= 1
            return
        if event["type"] == "Thinned":  # the file was replaced: all that was told before is in this line
            story = unpack(event["story"], Story)
            self.state.durable, self.skip = unpack(event["state"], Durable), event["lines"]
            self.board.recall(story.faults_seen, [(e.number, e.loss) for e in story.evaluations])
            return
        fact = fact_of(event)
        if fact is not None:
            apply(self.state.durable, fact)
            self.board.note([fact], event["unix_s"])

    def _measure(self, sample: Event) -> None:
        self.written_unix_s = max(self.written_unix_s, sample["unix_s"])
        for name, row in sample["learners"].items():
            metrics = metrics_of(name, row)
            self.board.measure(metrics)
            self.state.volatile.pulses[name] = Pulse(sample["unix_s"], interval_s=SAMPLE_GAP_S, base=metrics.base)


def metrics_of(name: str, row: Event) -> m.Metrics:
    """A learner's counters, of a line of metrics.jsonl."""
    return m.Metrics(
        name,
        row["generation"],
        tokens=row["tokens"],
        steps=row["steps"],
        busy_s=row["busy_s"],
        wait_s=row["wait_s"],
        tokens_per_s=row["tokens_per_s"],
        loss=math.nan if row["loss"] is None else row["loss"],
        phase=row["state"],
        base=None if row["base"] is None else msgspec.convert(row["base"], Version),
        up_bytes=row["up_bytes"],
        down_bytes=row["down_bytes"],
    )
