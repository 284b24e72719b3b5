"""Codebook: k-means levels of block-normalised values, fitted to the tensor and sent with it (4.25 bits at 16, block 64).

Values are divided by their block's largest magnitude before levels are fitted: of heavy-tailed values few large ones would
else take all levels. Fitted on a sample by Lloyd's method; fitted again when the sample's error has grown.
Source: Lloyd 1982; Han et al., Deep Compression, 2016 (1510.00149).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from plesio.codecs.blocks import Blocks, inverse, largest, rounded
from plesio.codecs.nf4 import LEVELS as NORMAL
from plesio.codecs.nf4 import fine_middles, middles, nearest
from plesio.codecs.packets import Payload, Shape, Stamp
from plesio.errors import CodecError, UserError

SAMPLE = 1 << 16  # values
STEPS = 30  # of Lloyd's method at most
DRIFT = 1.05  # growth of the sample's error from which levels are fitted again
SETTLED = 1e-3  # relative gain of a step below which the method ends


@dataclass(frozen=True)
class Sample:
    """values: (n,) float64, each divided by its block's largest magnitude. weights: (n,) float64, its square."""

    values: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Fitted:
    """levels: (16,) float32. error: see distortion, of what they were fitted on; -1: of nothing yet."""

    levels: Tensor
    error: float


@dataclass(frozen=True, init=False, repr=False)
class Codebook(Blocks):
    """The nearest of `size` fitted levels, 16. Payload's head: the levels, float32. State: Fitted."""

    size: int
    name: ClassVar[str] = "codebook"
    bits: ClassVar[int] = 4
    rule: ClassVar[str] = "levels"
    head_bytes: ClassVar[int] = 64

    def __init__(self, size: int = 16, block: int = 64) -> None:
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "block", block)
        self.__post_init__()
        if size != 16:
            raise UserError(f"codec 'codebook' has 16 levels, not {size}")

    @property
    def stamp(self) -> Stamp:
        """See Stage.stamp."""
        return self.name, (self.size, self.block)

    def __repr__(self) -> str:
        return f"codebook({self.size})" if self == Codebook(self.size) else f"codebook({self.size}, {self.block})"

    def init(self, like: Tensor) -> Fitted:
        """What the first fit begins with."""
        return Fitted(torch.tensor(NORMAL), -1.0)

    def prepare(self, flat: Tensor, head: Tensor, state: Fitted | None) -> Fitted:
        """See Blocks.prepare. What was fitted stays as long as it fits."""
        sample, fitted = _sample(flat, self.block), state or self.init(flat)
        if distortion(sample, fitted.levels) > DRIFT * fitted.error:
            fitted = lloyd(sample, fitted.levels)
        head.copy_(fitted.levels.view(torch.uint8))
        return fitted

    def widen(self, head: Tensor) -> None:
        """See Blocks.widen."""
        head[:4].view(torch.float32).fill_(-1)
        head[-4:].view(torch.float32).fill_(1)

    def quantise(self, rows: Tensor, head: Tensor, short: int) -> tuple[Tensor, Tensor]:
        """See Blocks.quantise."""
        return nearest(rows, head.clone().view(torch.float32))

    def levels(self, head: Payload) -> Tensor:
        """See Blocks.levels."""
        return torch.from_numpy(np.frombuffer(head, np.uint8).copy().view(np.float32))

    def between(self, head: Tensor) -> Tensor:
        """See Blocks.between."""
        return fine_middles(head.clone().view(torch.float32))

    def quantise_compiled(self, compiled: Any, rows: Any, scales: Any, codes: Any, head: Any, short: int) -> int:
        """See Blocks.quantise_compiled."""
        between = self.between(torch.from_numpy(head)).numpy()
        return int(compiled.nearest([rows, scales, codes], between))

    def read_compiled(self, compiled: Any, rows: list[Any], weight: float | None, head: Payload) -> None:
        """See Blocks.read_compiled."""
        compiled.decode_levels(rows, weight, self.levels(head).numpy())

    def check(self, payload: Payload, shape: Shape, dtype: torch.dtype) -> None:
        """See Blocks.check; levels ascend within -1 to 1."""
        levels = self.levels(payload[: self.head_bytes])
        if not bool((levels.abs() <= 1).all()) or not bool((levels.diff() >= 0).all()):
            raise CodecError(f"codec {self!r} met levels that are not within -1 and 1 in order")
        super().check(payload, shape, dtype)


def _sample(flat: Tensor, block: int) -> Sample:
    """Whole blocks from all over the tensor, on the CPU; those of zeros left out."""
    blocks = max(1, flat.numel() // block)
    picked = torch.arange(0, blocks, max(1, blocks * block // SAMPLE), device=flat.device)
    whole = flat if flat.numel() >= block else torch.nn.functional.pad(flat, (0, block - flat.numel()))
    rows = whole[: blocks * block].view(-1, block)[picked].float().cpu()
    top = largest(rows)
    there = top.isfinite() & (top > 0)
    rows, top = rows[there], top[there]
    weights = (top.double() / top.double().max()).square() if len(top) else top.double()
    values = (rows * inverse(rounded(top, top, 1))).double()
    return Sample(values.reshape(-1), weights.repeat_interleave(block))


def distortion(sample: Sample, levels: Tensor) -> float:
    """The weighted mean squared distance of a sample from the nearest of levels, (k,) ascending; 0 of an empty one."""
    if not len(sample.values):
        return 0.0
    exact = levels.double()
    off = sample.values - exact[torch.bucketize(sample.values, middles(exact))]
    return float((off.square() * sample.weights).sum() / sample.weights.sum())


def lloyd(sample: Sample, levels: Tensor) -> Fitted:
    """Levels, (k,) ascending, moved to the means of what is nearest to them until that gains little. Never worse."""
    best = Fitted(levels, distortion(sample, levels))
    for _ in range(STEPS if len(sample.values) else 0):
        exact, size = best.levels.double(), len(levels)
        nearest_to = torch.bucketize(sample.values, middles(exact))
        total = torch.bincount(nearest_to, sample.weights, minlength=size)
        means = torch.bincount(nearest_to, sample.values * sample.weights, minlength=size) / total
        moved = torch.where(total > 0, means, exact).float().clamp_(-1, 1).sort().values
        error = distortion(sample, moved)
        if error >= best.error:
            break
        gain, best = 1 - error / best.error, Fitted(moved, error)
        if gain < SETTLED:
            break
    return best
