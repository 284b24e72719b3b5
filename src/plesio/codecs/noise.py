"""Random numbers of stochastic rounding: a hash of a seed, a count of tensors, a value's place in its tensor, and the value.

Nothing is drawn from a generator: the same on every machine and device, for any number of threads and size of chunks. The
value is hashed, too, so that machines that have the same seed and other values do not all round the same places up. It is
no cryptography. Mixers: SplitMix64 (Steele et al. 2014) for keys, lowbias32 (Wellons 2018) for values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ALL_32, ALL_64 = (1 << 32) - 1, (1 << 64) - 1
STEP = 0x9E3779B9  # from place to place
FIRST, SECOND = 0x7FEB352D, 0x846CA68B
FINE = 2.0**-24


@dataclass(frozen=True)
class Noise:
    """Of one tensor. start, twist: its key, 32 bits each."""

    start: int
    twist: int

    @classmethod
    def of(cls, seed: int, count: int) -> Noise:
        """Of the tensor number `count` under that seed."""
        key = _mixed_64(_mixed_64(seed) + count)
        return cls(key >> 32, key & ALL_32)

    def starts(self, first: int, rows: int, block: int) -> Tensor:
        """(rows,) int32, as bits: what `drawn` begins with at the first value of each row, the first at place `first`."""
        places = torch.arange(rows, dtype=torch.int64) * block + first
        return ((places * STEP + self.start) & ALL_32).to(torch.int32)

    def drawn(self, rows: Tensor, first: int) -> Tensor:
        """(n, block) float32: 0 to 1 - 2^-24 for each value of rows: (n, block) float32, the first at place `first`."""
        count, block = rows.shape
        steps = torch.arange(block, device=rows.device) * STEP
        hashed = (self.starts(first, count, block).to(rows.device)[:, None] + steps) ^ rows.view(torch.int32)
        hashed &= ALL_32
        hashed ^= hashed >> 16
        hashed = (hashed * FIRST & ALL_32) ^ self.twist
        hashed ^= hashed >> 15
        hashed = hashed * SECOND & ALL_32
        hashed ^= hashed >> 16
        return (hashed >> 8).float() * FINE


def _mixed_64(key: int) -> int:
    key = (key + 0x9E3779B97F4A7C15) & ALL_64
    key = (key ^ key >> 30) * 0xBF58476D1CE4E5B9 & ALL_64
    key = (key ^ key >> 27) * 0x94D049BB133111EB & ALL_64
    return key ^ key >> 31
