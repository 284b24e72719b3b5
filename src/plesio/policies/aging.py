"""Priorities that age: a level of priority is worth a head start of so many seconds, so nothing starves."""

from __future__ import annotations

import msgspec


class Aging(msgspec.Struct, frozen=True):
    """See Order. A task is overtaken only by those submitted within `step_s` seconds per level of priority after it."""

    step_s: float = 10.0

    def rank(self, priority: int, submitted_s: float) -> float:
        """When it would have been submitted, had it no priority."""
        return submitted_s - priority * self.step_s
