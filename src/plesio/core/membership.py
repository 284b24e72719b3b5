"""Who is alive, from observed arrivals only: no timeout that a user must guess. Volatile; never journaled."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from plesio.records import Version

SUSPICION_FLOOR_S = 2.0
AWAY_S = 1.0  # between two signs of life of our own: we stood still
COUNTS_S = 0.2  # of that: who stands still again and again, in turns that take long, misses no death for ever
SILENCE_FACTOR = 5.0  # a silent learner's leases are taken back after so many suspicion deadlines, if needed


class Pulse(msgspec.Struct):
    """What is known of one learner just now. Owned by Volatile."""

    last_s: float
    interval_s: float = 0.25  # smoothed time between signs of life
    spread_s: float = 0.1  # smoothed deviation of it
    base: Version | None = None  # its newest known base; None: it has no state yet
    tokens: float = 0.0  # tokens of its newest whole push
    step_s: float = 0.0  # seconds of one step, as it measured
    longest_s: float = 0.0  # longest silence between two signs of life
    missed: int = 0  # how often it was silent for its deadline or longer

    def beat(self, now_s: float) -> None:
        """A sign of life."""
        gap_s = max(0.0, now_s - self.last_s)
        self.longest_s = max(self.longest_s, gap_s)
        self.missed += gap_s >= self.deadline_s()
        self.spread_s += 0.1 * (abs(gap_s - self.interval_s) - self.spread_s)
        self.interval_s += 0.1 * (gap_s - self.interval_s)
        self.last_s = now_s

    def deadline_s(self) -> float:
        """Seconds of silence after which it is suspected."""
        return max(SUSPICION_FLOOR_S, 2.0 * self.interval_s + 8.0 * self.spread_s)

    def suspected(self, now_s: float) -> bool:
        """Silent for longer than its deadline?"""
        return now_s - self.last_s >= self.deadline_s()

    def silent(self, now_s: float) -> bool:
        """So long that its leases may be given to one who waits for work?"""
        return now_s - self.last_s >= SILENCE_FACTOR * self.deadline_s()


class Listening(msgspec.Struct):
    """When we were last seen to listen. Owned by a coordinator's process."""

    last_s: float = math.inf

    def goes_on(self, now_s: float, pulses: Iterable[Pulse]) -> None:
        """We listen now. If we stood still until now, hardly any of that was silence of theirs."""
        away_s, self.last_s = now_s - self.last_s, now_s
        if away_s > AWAY_S:
            for pulse in pulses:
                pulse.last_s += away_s - COUNTS_S


def process_of(incarnation: str) -> str:
    """Which process: it joins as x, and anew as x.1, x.2."""
    return incarnation.partition(".")[0]
