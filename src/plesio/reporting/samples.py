"""metrics.jsonl as it is written: one line a second, thinned when the file has become large."""

from __future__ import annotations

import contextlib
from pathlib import Path

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
    """Every other line, the newest, and each that is the last of a process: counters begin again after it."""
    kept: list[bytes] = []
    samples = [parse(row) for row in rows]
    for at, row in enumerate(rows):
        after = samples[at + 1] if at + 1 < len(rows) else None
        sample = samples[at]
        if sample is not None and (at % 2 == 0 or after is None or _begins_again(sample, after)):
            kept.append(row)
    return kept


def _begins_again(sample: Event, after: Event) -> bool:
    return _owners(sample) != _owners(after) or any(
        after.get("wire_bytes", {}).get(key, 0) < value for key, value in sample.get("wire_bytes", {}).items()
    )


def _owners(sample: Event) -> dict[str, object]:
    return {name: row.get("generation") for name, row in sample.get("learners", {}).items()}
