"""Where time comes from. The core is handed `now`; only the runtime reads a clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A source of seconds that only grow. The zero is the clock's own."""

    def now_s(self) -> float:
        """Seconds on this clock."""


class SystemClock:
    """The machine's monotonic clock."""

    def now_s(self) -> float:
        return time.monotonic()


class VirtualClock:
    """A clock that moves only when told to; owned by a test or by the simulator."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def now_s(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Moves on by `seconds` (>= 0)."""
        assert seconds >= 0
        self._now_s += seconds
