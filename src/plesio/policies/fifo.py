"""First in, first out, whatever the priority."""

from __future__ import annotations

import msgspec


class Fifo(msgspec.Struct, frozen=True):
    """See Order."""

    def rank(self, priority: int, submitted_s: float) -> float:
        """The time of submission."""
        return submitted_s
