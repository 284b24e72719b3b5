"""How often, and after how long, a process that failed is started again."""

from __future__ import annotations

import msgspec

GIVE_UP_AFTER = 5  # failures in a row without progress in between
HEALTHY_S = 20.0  # a process that ran so long had not failed in a row


def in_a_row(failures: int, lasted_s: float) -> int:
    """How often it has failed in a row now, if that was so often before, and it has lasted so long this time."""
    return 1 if lasted_s > HEALTHY_S else failures + 1


class Backoff(msgspec.Struct, frozen=True):
    """Exponential waiting with a ceiling; pure, so the caller keeps the count of failures."""

    base_s: float = 0.2
    factor: float = 2.0
    cap_s: float = 10.0

    def next(self, failures: int) -> float:
        """Seconds to wait after `failures` failures in a row; 0 failures wait not at all."""
        wait_s = self.base_s if failures > 0 else 0.0
        for _ in range(failures - 1):  # not factor**failures: a float power overflows
            if wait_s >= self.cap_s or self.factor <= 1.0:
                break
            wait_s *= self.factor
        return min(wait_s, self.cap_s)
