"""`plesio run --tensorboard`: what the run's files say, as scalars of TensorBoard, by merged tokens.

It reads events.jsonl and metrics.jsonl beside the run, every few seconds, so the run's processes know nothing of it.
The writer is the tensorboard package's own, as in torch.utils.tensorboard, without torch.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from plesio.errors import UserError
from plesio.reporting.course import Round
from plesio.reporting.events import Event, parse
from plesio.reporting.story import Evaluation, Story, tell
from plesio.runtime.follow import Tail

FOLDER = "tensorboard"
PERIOD_S = 5.0

Write = Callable[[str, float, int, float], None]  # (tag, value, tokens, unix seconds)


def check_installed() -> None:
    """Raises UserError naming the mend."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "--tensorboard needs the package tensorboard; install it with: pip install 'plesio[tensorboard]'"
        )


class Scalars:
    """Owns the fold of the events so far. Facts and samples up to `since_unix_s` are folded, and not written."""

    def __init__(self, run_dir: Path, write: Write, since_unix_s: float = 0.0) -> None:
        self.events = Tail(run_dir / "events.jsonl")
        self.metrics = Tail(run_dir / "metrics.jsonl")
        self.write = write
        self.since_unix_s = since_unix_s
        self.story = Story()
        self.tokens = 0  # merged, of rounds that stand
        self.closed: list[Round] = []  # since the last update
        self.sample: Event | None = None  # the last one that was looked at

    def update(self) -> None:
        """Writes what is new."""
        for row in self.events.read():
            event = parse(row)
            if event is not None:
                self._fold(event)
        if self.closed:
            self._write_rounds(self.closed[-1].unix_s)
        samples = [sample for row in self.metrics.read() if (sample := parse(row)) is not None]
        if samples:
            self._write_sample(self.sample or samples[0], samples[-1])
            self.sample = samples[-1]

    def _fold(self, event: Event) -> None:
        skipped = self.story.skip > 0
        known = self.story.evaluations[-1:]
        if event["type"] == "Thinned":  # the file was replaced by one whose first line holds all that was told before
            self.since_unix_s = max(self.since_unix_s, self.story.ended_unix_s)
            self.closed.clear()
        tell([event], self.story)
        if skipped:
            return
        fresh = event["unix_s"] > self.since_unix_s
        if event["type"] == "Thinned":
            self.tokens = self.story.merged_tokens
            for loss in self.story.evaluations:
                if loss.unix_s > self.since_unix_s:
                    self._write_loss(loss)
        elif event["type"] == "RoundClosed":
            self.tokens += event["tokens"]
            if fresh:
                self.closed.append(self.story.rounds[-1])
        elif event["type"] == "RolledBack":
            self.tokens = self.story.merged_tokens
        elif event["type"] == "Evaluated" and fresh and self.story.evaluations[-1:] != known:
            self._write_loss(self.story.evaluations[-1])

    def _write_loss(self, loss: Evaluation) -> None:
        self.write("loss/held_out", loss.loss, loss.tokens, loss.unix_s)

    def _write_rounds(self, unix_s: float) -> None:
        behind = [versions for closed in self.closed for _, versions in closed.staleness]
        self.write("rounds/effective_participants", fmean(r.effective for r in self.closed), self.tokens, unix_s)
        if behind:
            self.write("rounds/staleness", fmean(behind), self.tokens, unix_s)
        self.closed.clear()

    def _write_sample(self, before: Event, now: Event) -> None:
        unix_s = now["unix_s"]
        if unix_s <= self.since_unix_s:
            return
        span_s = unix_s - before["unix_s"]
        rates = []
        for name, row in now["learners"].items():
            if row.get("loss") is not None:
                self.write(f"{name}/loss", row["loss"], self.tokens, unix_s)
            old = before["learners"].get(name)
            if old is None or span_s <= 0 or old["generation"] != row["generation"] or row["tokens"] < old["tokens"]:
                continue  # its counters began again
            utilisation = min(1.0, max(0.0, row["busy_s"] - old["busy_s"]) / span_s)
            self.write(f"{name}/utilisation", utilisation, self.tokens, unix_s)
            rates.append((row["tokens"] - old["tokens"]) / span_s)
        if rates:
            self.write("run/tokens_per_s", sum(rates), self.tokens, unix_s)
        for key, size_bytes in now["wire_bytes"].items():
            self.write(f"wire/{key}_bytes", size_bytes, self.tokens, unix_s)


@contextlib.contextmanager
def following(run_dir: Path, period_s: float = PERIOD_S) -> Iterator[None]:
    """Writes into RUN/tensorboard while the block runs, and once more at its end. The run never fails by it."""
    folder = run_dir / FOLDER
    since_unix_s = time.time() if folder.exists() and any(folder.iterdir()) else 0.0
    stop = threading.Event()
    thread = threading.Thread(target=_follow, args=(run_dir, since_unix_s, period_s, stop), name="tensorboard")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _follow(run_dir: Path, since_unix_s: float, period_s: float, stop: threading.Event) -> None:
    try:
        with _writer(run_dir / FOLDER) as write:
            scalars = Scalars(run_dir, write, since_unix_s)
            while not stop.wait(period_s):
                scalars.update()
            scalars.update()
    except Exception as error:  # the edge of a thread: the run goes on without
        print(f"plesio: --tensorboard stopped: {error}", file=sys.stderr)


@contextlib.contextmanager
def _writer(folder: Path) -> Iterator[Write]:
    from tensorboard.compat.proto.event_pb2 import Event as Record
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    file: Any = EventFileWriter(str(folder))

    def write(tag: str, value: float, tokens: int, unix_s: float) -> None:
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
        file.add_event(Record(wall_time=unix_s, step=tokens, summary=summary))

    try:
        yield write
    finally:
        file.close()
