"""NF4: each block as one of 16 levels, the quantiles of a normal distribution, times one 16-bit scale, its absmax.

4.25 bits a value at block 64. Source: QLoRA, Dettmers et al. 2023 (2305.14314).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from plesio.codecs.blocks import Blocks, inverse, largest, rounded
from plesio.codecs.packets import Payload

LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
FINE = 32000  # steps of a normalised value that levels are told apart by


@dataclass(frozen=True, repr=False)
class NF4(Blocks):
    """The nearest level."""

    block: int = 64
    name: ClassVar[str] = "nf4"
    bits: ClassVar[int] = 4
    rule: ClassVar[str] = "levels"

    def quantise(self, rows: Tensor, head: Tensor, short: int) -> tuple[Tensor, Tensor]:
        """See Blocks.quantise."""
        return nearest(rows, self.levels(b""))

    def levels(self, head: Payload) -> Tensor:
        """See Blocks.levels."""
        return torch.tensor(LEVELS)

    def between(self, head: Tensor) -> Tensor:
        """See Blocks.between."""
        return _middles()

    def quantise_compiled(self, compiled: Any, rows: Any, scales: Any, codes: Any, head: Any, short: int) -> int:
        """See Blocks.quantise_compiled."""
        return int(compiled.nearest([rows, scales, codes], _middles().numpy()))

    def read_compiled(self, compiled: Any, rows: list[Any], weight: float | None, head: Payload) -> None:
        """See Blocks.read_compiled."""
        compiled.decode_levels(rows, weight, self.levels(head).numpy())


def nearest(rows: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """(scales, codes) by levels, (k,) ascending, of blocks of largest magnitude 1. rows: (n, block) float32."""
    top = largest(rows)
    scales = rounded(top, top, 1)
    steps = (rows * inverse(scales) * FINE).round_()
    return scales, torch.bucketize(steps, fine_middles(levels).float().to(rows.device)).to(torch.uint8)


def middles(levels: Tensor) -> Tensor:
    """(k - 1,): between neighbours of levels: (k,) ascending."""
    return (levels[1:] + levels[:-1]) / 2


def fine_middles(levels: Tensor) -> Tensor:
    """(k - 1,) int16: the same in steps of 1 / FINE."""
    return (middles(levels) * FINE).round().to(torch.int16)


@functools.cache
def _middles() -> Tensor:
    return fine_middles(torch.tensor(LEVELS))
