"""Timed spans, collected beside the work: cheap, bounded, without a lock. They travel with the metrics (see trace.json).

A span under SHORTEST_S is not kept at all; one for which there is no room until the next report is counted.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

from plesio.wire.timings import NOTHING, Timings

ROOM = 2048  # spans of one thread between two reports
SHORTEST_S = 20e-6
GAP_S = 200e-6  # spans closer than this may become one
JOINED_S = 0.05  # and then are at most so long,
TAIL_S = 0.005  # unless the earlier one is a mere tail: the user's lines after a step belong to the next step

Timed = tuple[int, float, float, int]  # (kind, monotonic seconds of its start, of its end, detail)


class Track:
    """One thread's spans. That thread adds; one other takes: both ends of a deque are safe without a lock.

    joining: consecutive spans of one kind become one, so that tiny steps do not flood the trace. The newest span
    is then held back until another kind follows, or until `flush`.
    """

    def __init__(self, joining: bool = False, room: int = ROOM) -> None:
        self.joining = joining
        self.room = room
        self.dropped = 0
        self._told = 0  # of the dropped; the taker's
        self._rows: deque[Timed] = deque()
        self._last: Timed | None = None

    def add(self, kind: int, began_s: float, spent_s: float, detail: int = 0) -> None:
        """It began then, by time.monotonic(), and took so long."""
        if spent_s < SHORTEST_S:
            return
        row: Timed = (kind, began_s, began_s + spent_s, detail)
        if not self.joining:
            self._keep(row)
            return
        last = self._last
        if last is not None:
            if _one(last, row):
                self._last = (kind, last[1], row[2], detail)
                return
            self._keep(last)
        self._last = row

    def flush(self) -> None:
        """Nothing follows: the newest span may be taken. By the thread that adds."""
        if self._last is not None:
            self._keep(self._last)
            self._last = None

    def _keep(self, row: Timed) -> None:
        if len(self._rows) < self.room:
            self._rows.append(row)
        else:
            self.dropped += 1

    def take(self) -> tuple[list[Timed], int]:
        """What is new, and how many more were dropped. By the thread that reports."""
        rows = [self._rows.popleft() for _ in range(len(self._rows))]
        dropped, told = self.dropped, self._told
        self._told = dropped
        return rows, dropped - told


def _one(last: Timed, row: Timed) -> bool:
    near = last[0] == row[0] and 0.0 <= row[1] - last[2] <= GAP_S
    return near and (row[2] - last[1] <= JOINED_S or last[2] - last[1] < TAIL_S)


def report(tracks: Iterable[Track]) -> Timings:
    """What the tracks have for the next Metrics, in unix time as this machine's clock has it now."""
    rows: list[Timed] = []
    dropped = 0
    for track in tracks:
        some, lost = track.take()
        rows += some
        dropped += lost
    if not rows:
        return Timings(dropped=dropped) if dropped else NOTHING
    first_s = min(row[1] for row in rows)
    since = [(kind, int((a - first_s) * 1e6), int((b - first_s) * 1e6), detail) for kind, a, b, detail in rows]
    return Timings(
        time.time() - time.monotonic() + first_s,
        tuple((kind, begun, ended - begun, detail) for kind, begun, ended, detail in since),
        dropped,
    )
