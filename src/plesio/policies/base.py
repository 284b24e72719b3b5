"""The contracts of scheduling policies. Pure: no clock, no randomness of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Order(Protocol):
    """Which task is next, among the oldest of each kind."""

    def rank(self, priority: int, submitted_s: float) -> float:
        """The lower, the sooner. Grows with `submitted_s`: within a priority, tasks keep their order."""
        ...


class Seat(Protocol):
    """A slot, as a placement sees it. speed: work done in a second, 1.0 for the average slot."""

    backlog_s: float  # seconds of work that it has, as far as known
    speed: float


class Placement(Protocol):
    """Which slot gets the next task."""

    def choose(self, seats: Sequence[Seat], cost_s: float, turn: int) -> int:
        """The index of the slot, of those with room (at least one). cost_s: what the task takes on an average slot.

        turn: counts choices, for those that need to draw.
        """
        ...
