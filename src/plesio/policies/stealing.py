"""Work stealing: what waits behind a task that takes longer than expected is for other slots to take."""

from __future__ import annotations

import msgspec


class Stealing(msgspec.Struct, frozen=True):
    """after_s: a slot that has finished nothing for so long keeps only the task that it is at, and gets no more."""

    after_s: float = 0.05

    def is_stuck(self, tasks: int, idle_s: float) -> bool:
        """May its other tasks be taken? tasks: that it has; idle_s: seconds since it last finished something."""
        return tasks > 0 and idle_s > self.after_s
