"""The slot with the least work in front of it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from plesio.policies.base import Seat


class LeastLoaded(msgspec.Struct, frozen=True):
    """See Placement."""

    def choose(self, seats: Sequence[Seat], cost_s: float, turn: int) -> int:
        """The first of those with the least backlog."""
        return min(range(len(seats)), key=lambda i: seats[i].backlog_s)
