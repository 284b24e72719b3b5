"""Strict priorities: a lower one waits as long as a higher one has anything, for ever if need be."""

from __future__ import annotations

import msgspec

STEP_S = 1e12  # no submission is so much later than another


class Priority(msgspec.Struct, frozen=True):
    """See Order."""

    def rank(self, priority: int, submitted_s: float) -> float:
        """Priorities first."""
        return submitted_s - priority * STEP_S
