"""The slot that would be done with it first, by its measured speed. Source: the idea of HEFT, Topcuoglu 2002."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from plesio.policies.base import Seat


class RateAware(msgspec.Struct, frozen=True):
    """See Placement."""

    def choose(self, seats: Sequence[Seat], cost_s: float, turn: int) -> int:
        """By the time when it would end; among equals the faster slot, then the first."""
        return min(range(len(seats)), key=lambda i: ((seats[i].backlog_s + cost_s) / seats[i].speed, -seats[i].speed))
