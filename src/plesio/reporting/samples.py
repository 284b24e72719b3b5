"""metrics.jsonl as it is written: one line a second, thinned when the file has become large."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from plesio.reporting.events import Event, parse
from plesio.reporting.files import append, replace

FILE = "metrics.jsonl"
THIN_BYTES = 16 << 20


class SampleLog:
    """Appends to metrics.jsonl. Owned by the coordinator."""

    def __init__(self, run_dir: Path, thin_bytes: int = THIN_BYTES) -> None:
        self.path = run_dir / FILE
        self.thin_bytes = thin_bytes

    def append(self, line: str) -> None:
        """Writes a sample, if the disk takes it. Over the limit every other line goes: curves stay, with fewer points."""
        with contextlib.suppress(OSError):
            if append(self.path, line.encode() + b"\n") > self.thin_bytes:
                self._thin()

    def _thin(self) -> None:
        replace(self.path, b"".join(thinned(self.path.read_bytes().splitlines(keepends=True))))
        if self.path.stat().st_size > 0.75 * self.thin_bytes:  # most of it must stay: do not try every second
            self.thin_bytes *= 2


def thinned(rows: list[bytes]) -> list[bytes]:
    """Every other line, the newest, and of the others what is the last of a process: counters begin again after it."""
    kept: list[bytes] = []
    later = Later()
    for back, row in enumerate(reversed(rows)):
        sample = parse(row)
        if sample is None:
            continue
        last = later.ending(sample)
        if back % 2 == 0:
            kept.append(row)
        elif last:
            kept.append(msgspec.json.encode({"unix_s": sample["unix_s"], **last}) + b"\n")
    return kept[::-1]


class Later:
    """What the samples after one say, seen from the newest backwards."""

    def __init__(self) -> None:
        self.generations: dict[str, int] = {}
        self.wire: dict[str, int] = {}

    def ending(self, sample: Event) -> Event:
        """Of the sample before those seen: the rows of processes whose last it is. {}: of none."""
        learners: Event = sample.get("learners", {})
        wire: dict[str, int] = sample.get("wire_bytes", {})
        last = {name: row for name, row in learners.items() if self.generations.get(name) != row.get("generation")}
        lower = any(self.wire.get(key, 0) < value for key, value in wire.items())
        self.generations |= {name: row.get("generation") for name, row in learners.items()}
        self.wire |= wire
        return {"learners": last, **({"wire_bytes": wire} if lower else {})} if last or lower else {}
