"""Second copies of stragglers, on a small share of the slots; the first result counts. Source: LATE, Zaharia 2008."""

from __future__ import annotations

import msgspec


class Speculation(msgspec.Struct, frozen=True):
    """share: of the slots that may run copies; 0: never. A straggler takes `factor` times the usual, and `least_s` more."""

    share: float = 0.1
    factor: float = 3.0
    least_s: float = 0.5

    def room(self, slots: int, copies: int) -> int:
        """How many more copies may run."""
        return max(0, int(slots * self.share) - copies)

    def is_straggler(self, usual_s: float, spent_s: float) -> bool:
        """Is a second copy worth it?"""
        return spent_s > max(self.factor * usual_s, usual_s + self.least_s)
