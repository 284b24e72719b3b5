"""The better of two slots drawn at random: robust when what is known of loads is old. Source: Mitzenmacher 2001."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from plesio.policies.base import Seat

MIX = 0x9E3779B97F4A7C15  # Weyl's sequence on the golden ratio, as in SplitMix64


def draw(seed: int, turn: int) -> int:
    """A number of 64 bits that looks random; a function of its arguments alone (SplitMix64)."""
    z = (seed + turn * MIX) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return z ^ z >> 31


class PowerOfTwo(msgspec.Struct, frozen=True):
    """See Placement."""

    seed: int = 0

    def choose(self, seats: Sequence[Seat], cost_s: float, turn: int) -> int:
        """Of two different ones, the one with less backlog."""
        n = len(seats)
        bits = draw(self.seed, turn)
        first = bits % n
        if n == 1:
            return first
        second = (first + 1 + (bits >> 32) % (n - 1)) % n
        return first if seats[first].backlog_s <= seats[second].backlog_s else second
