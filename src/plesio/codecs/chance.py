"""What stochastic rounding does to the blocks of a quantiser: scales that reach all values, and codes drawn by noise.

Codes come from a compiled loop (kernels.chance) where there is one, to the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from plesio.codecs import kernels
from plesio.codecs.blocks import TINY, TOP, Blocks, largest, pack, rounded
from plesio.codecs.kernels.threads import spread
from plesio.codecs.noise import Noise
from plesio.errors import CodecError

PAIR_CODES = (1, 0, 2, 3)  # of int2, ascending: minus the larger, minus the smaller, the smaller, the larger


@dataclass(frozen=True)
class Levels:
    """Of a block quantiser. values: (k,) float32, ascending; codes: (k,) uint8. own: are scales the quantiser's own?"""

    codec: Blocks
    head: Tensor
    values: Tensor
    codes: Tensor
    own: bool
    width: ClassVar[int] = 1  # scales a block

    @classmethod
    def of(cls, codec: Blocks, head: Tensor, kept: bool) -> Levels:
        """head: (head_bytes,) uint8, as it is sent. kept: see Stage.under_feedback."""
        found = codec.levels(head.numpy().data)
        if not bool(found.min() < 0) or not bool(found.max() > 0):
            raise CodecError(f"codec {codec!r} has no levels on both sides of 0, so that 'sr' cannot round to them")
        order = found.argsort(stable=True)
        return cls(codec, head, found[order], order.to(torch.uint8), kept and codec.bits == 1)

    @property
    def bits(self) -> int:
        """Of a code."""
        return self.codec.bits

    @property
    def sent_bits(self) -> int:
        """Of a scale."""
        return 32 if self.codec.wide else 16

    @property
    def reach(self) -> float:
        """How far the levels go on both sides."""
        return float(torch.minimum(-self.values[0], self.values[-1]))

    def scales(self, rows: Tensor, short: int) -> Tensor:
        """(n,) float32 of rows: (n, block) float32, of which the last ends with so many zeros that are no values."""
        if self.own:
            return self.codec.quantise(rows, self.head, short)[0]
        return covering(tops(rows), self.reach, 7 if self.codec.wide else 16)

    def packed(self, rows: Tensor, scales: Tensor, noise: Noise, first: int) -> Tensor:
        """(n * block * bits / 8,) uint8: the codes as they are sent. first: the place of the first value."""
        safe = torch.where(scales > 0, scales, 1.0)
        compiled = kernels.worth("chance", rows)
        if compiled is not None:
            given = compiled_rows(rows, safe, noise, first, self.bits)
            compiled.draw(given, noise.twist, self.bits, self.values.numpy(), self.codes.numpy())
            return torch.from_numpy(given[-1].reshape(-1))
        values = self.values.to(rows.device)
        steps = (rows / safe[:, None]).clamp_(-self.reach, self.reach)
        low = (torch.bucketize(steps, values, right=True) - 1).clamp_(max=len(values) - 2)
        up = noise.drawn(rows, first) * values.diff()[low] < steps - values[low]
        return pack(self.codes[(low + up).cpu()], self.bits)


@dataclass(frozen=True)
class Pairs:
    """Of int2: a smaller and a larger magnitude a block: its mean one, and one that reaches the largest."""

    bits: ClassVar[int] = 2
    sent_bits: ClassVar[int] = 16
    width: ClassVar[int] = 2

    def scales(self, rows: Tensor, short: int) -> Tensor:
        """(n, 2) float32. See Levels.scales."""
        top, counts = tops(rows), torch.full((len(rows),), float(rows.shape[1]), dtype=torch.float64)
        counts[-1] -= short
        means = sums(rows) / counts.to(rows.device)
        return torch.stack([rounded(means.float(), top, 1), covering(top, 1.0, 16)], 1)

    def packed(self, rows: Tensor, scales: Tensor, noise: Noise, first: int) -> Tensor:
        """See Levels.packed."""
        compiled = kernels.worth("chance", rows)
        if compiled is not None:
            given = compiled_rows(rows, scales, noise, first, self.bits)
            compiled.draw_two(given, noise.twist)
            return torch.from_numpy(given[-1].reshape(-1))
        small, large = scales[:, :1], scales[:, 1:]
        levels = torch.cat([-large, -small, small, large], 1)
        low = (rows >= -small).long() + (rows >= small)
        below = levels.gather(1, low)
        up = noise.drawn(rows, first) * (levels.gather(1, low + 1) - below) < rows - below
        return pack(torch.tensor(PAIR_CODES, dtype=torch.uint8)[(low + up).cpu()], 2)


def compiled_rows(rows: Tensor, scales: Tensor, noise: Noise, first: int, bits: int) -> list[Any]:
    """What kernels.chance takes: values, where noise starts, scales, and room for packed codes."""
    count, block = rows.shape
    room = np.empty((count, block * bits // 8), np.uint8)
    return [rows.numpy(), noise.starts(first, count, block).numpy(), scales.numpy(), room]


def cast(values: Tensor, target: torch.dtype, noise: Noise, first: int) -> Tensor:
    """(n,) of that 16-bit dtype: one of the two nearest to each of values: (n,) float32. Beyond its largest number Inf."""
    near = values.to(target)
    off = values - near.float()
    step = torch.where(near.float().abs() < values.abs(), 1, -1).to(torch.int16)  # of magnitudes, as bits
    other = (near.view(torch.int16) + step).view(target)
    gap = (other.float() - near.float()).abs()
    return torch.where(noise.drawn(values[None], first)[0] * gap < off.abs(), other, near)


def sums(rows: Tensor) -> Tensor:
    """(n,) float64: of the magnitudes of each row. Their order does not show in the 16 bits that are kept of them."""
    compiled = kernels.worth("chance", rows)
    if compiled is None:
        return rows.double().abs().sum(1)
    found = torch.empty(len(rows), dtype=torch.float64)
    spread(compiled.sums, [rows.numpy(), found.numpy()])
    return found


def tops(rows: Tensor) -> Tensor:
    """See blocks.largest."""
    compiled = kernels.worth("chance", rows)
    if compiled is None:
        return largest(rows)
    found = torch.empty(len(rows))
    spread(compiled.tops, [rows.numpy(), found.numpy().view(np.int32)])
    return found


def covering(top: Tensor, reach: float, dropped: int) -> Tensor:
    """(n,) float32: the least scales, without their lowest `dropped` bits, that times reach are top: (n,), or more.

    0 for 0, else a normal number; top where that is NaN or Inf. Beyond the largest float32 nothing is reached.
    """
    unit = 1 << dropped
    least = int(np.float32(TINY).view(np.int32))
    most = int(np.float32(np.float32(TOP) / np.float32(reach)).view(np.int32)) & -unit
    bits = (((top / reach).view(torch.int32) + (unit - 1)) & -unit).clamp_(max=most)
    bits += (bits.view(torch.float32) * reach < top).to(torch.int32) * unit
    scales = torch.where(top == 0, 0.0, bits.clamp_(least, most).view(torch.float32))
    return torch.where(top.isfinite(), scales, top)
