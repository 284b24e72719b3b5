"""spans.jsonl: the timed spans that processes report, one JSON line a report. Not journaled, not durable, bounded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from plesio.reporting.files import append
from plesio.wire.timings import Kind, Timings

FILE, OLDER = "spans.jsonl", "spans.1.jsonl"
ROTATE_BYTES = 12 << 20  # then the file becomes the older one, of which there is one: twice this on disk
MAX_ROWS = 8192  # of one report

NAMES = {kind.value: kind.name.lower() for kind in Kind}


class Line(msgspec.Struct, frozen=True):
    """One report. spans: (name, microseconds since unix_s, microseconds long, push's seq or version's number)."""

    process: str
    generation: int
    unix_s: float
    dropped: int
    spans: list[tuple[str, int, int, int]]


_decoder = msgspec.json.Decoder(Line)


class SpanLog:
    """Appends to spans.jsonl. A disk that takes no more loses spans, never the run; what is lost is counted."""

    def __init__(self, run_dir: Path, rotate_bytes: int = ROTATE_BYTES) -> None:
        self.path = run_dir / FILE
        self.older = run_dir / OLDER
        self.rotate_bytes = rotate_bytes
        self.lost = 0  # told with the next line

    def append(self, process: str, generation: int, timings: Timings) -> None:
        """Writes a report, if there is anything in it. Kinds that we do not know count as dropped."""
        if not timings.rows and not timings.dropped:
            return
        rows = timings.rows[:MAX_ROWS]
        known = [(NAMES[k], at, long, detail) for k, at, long, detail in rows if k in NAMES]
        dropped = max(0, timings.dropped) + len(timings.rows) - len(known) + self.lost
        line = Line(process, generation, timings.unix_s, dropped, known)
        try:
            size_bytes = append(self.path, b"\n" + msgspec.json.encode(line))  # first: after a torn line, too
            self.lost = 0
            if size_bytes > self.rotate_bytes:
                self.path.replace(self.older)
        except OSError:
            self.lost = dropped + len(known)


def read_spans(run_dir: Path) -> Iterator[Line]:
    """All reports that are kept, older first. Torn and damaged lines are left out."""
    for path in (run_dir / OLDER, run_dir / FILE):
        if not path.exists():
            continue
        with path.open("rb") as file:
            for row in file:
                try:
                    yield _decoder.decode(row)
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    continue
