"""RandomK: of every few neighbours one, drawn by a seed that is sent in place of the places. Only with feedback.

Source: sparsified SGD with memory, Stich et al. 2018 (1809.07599).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from plesio.codecs.packets import Payload, Shape, Stamp
from plesio.codecs.picks import Picks
from plesio.errors import CodecError, UserError

LONGEST = 1 << 16
SEED_BYTES = 8


@dataclass(frozen=True, init=False, repr=False)
class RandomK(Picks):
    """density: one part in so many: 1/2, 1/64. State: the seed of the next draw. What is drawn is not scaled up."""

    of: int
    name: ClassVar[str] = "randomk"

    def __init__(self, density: float | Fraction = Fraction(1, 64)) -> None:
        of = round(1 / density) if density > 0 and math.isfinite(density) else 0
        if not 1 <= of <= LONGEST or abs(of * density - 1) > 1e-9:
            raise UserError(f"codec 'randomk' keeps one in 1 to {LONGEST} values, such as 1/64, not {density}")
        object.__setattr__(self, "of", of)

    @property
    def stamp(self) -> Stamp:
        """See Stage.stamp."""
        return self.name, (self.of,)

    @classmethod
    def from_stamp(cls, *arguments: int) -> Self:
        """See Stage.from_stamp."""
        (of,) = arguments
        return cls(Fraction(1, of) if of > 0 else 0.0)

    def __repr__(self) -> str:
        return f"randomk({Fraction(1, self.of)})"

    def init(self, like: Tensor) -> int:
        """The first seed."""
        return 0

    def side_bytes(self, shape: Shape) -> int:
        """See Stage.side_bytes."""
        return SEED_BYTES

    def picked(self, numel: int) -> int:
        """See Picks.picked."""
        return -(-numel // self.of)

    def choose(self, flat: Tensor, side: Tensor, state: int | None) -> tuple[Tensor, int]:
        """See Picks.choose."""
        if not bool(flat.isfinite().all()):  # it might not be drawn, and be gone without a word
            raise CodecError(f"codec {self!r} cannot carry NaN or Inf; check the loss")
        seed = state or 0
        side.copy_(torch.tensor([seed]).view(torch.uint8))
        return _drawn(seed, len(flat), self.of), seed + 1

    def places(self, side: Payload, numel: int) -> Tensor:
        """See Picks.places."""
        return _drawn(int(np.frombuffer(side, np.int64)[0]), numel, self.of)


def _drawn(seed: int, numel: int, of: int) -> Tensor:
    """One place of each group of `of` neighbours: the same wherever it is drawn."""
    groups = np.arange(-(-numel // of), dtype=np.uint64)
    with np.errstate(over="ignore"):
        start = np.uint64(seed % (1 << 64)) * np.uint64(0xD1342543DE82EF95)
        mixed = groups * np.uint64(0x9E3779B97F4A7C15) + start
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):  # SplitMix64
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    firsts = groups * np.uint64(of)
    sizes = np.minimum(np.uint64(of), np.uint64(numel) - firsts)
    return torch.from_numpy((firsts + mixed % np.maximum(sizes, np.uint64(1))).astype(np.int64))
