"""Stochastic rounding of quantisers and casts: `sr(int4)`. What is decoded is in the mean what was encoded.

A value between two levels becomes the upper one with a probability that grows with its distance from the lower one. The
packet is the wrapped codec's, and so is what reads it. The state counts tensors: each is rounded by other random numbers
(noise), which are the same whenever it is encoded from the same state. One tensor alone loses more than by rounding to
the nearest: it is for means over many.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from plesio.codecs import kernels
from plesio.codecs.base import CHUNK, Stage
from plesio.codecs.blocks import Blocks
from plesio.codecs.cast import Bf16, Cast, Fp16
from plesio.codecs.chance import Levels, Pairs, cast
from plesio.codecs.int2 import Int2
from plesio.codecs.noise import Noise
from plesio.codecs.packets import Payload, Stamp
from plesio.errors import CodecError, UserError

MAX_SEED = (1 << 63) - 1


@dataclass(frozen=True)
class Draws:
    """count: tensors encoded so far. inner: the wrapped codec's state."""

    count: int
    inner: Any


@dataclass(frozen=True, repr=False)
class Stochastic(Stage):
    """A quantiser that rounds by chance. seed: 0 to 2^63 - 1. State: Draws. kept: see Stage.under_feedback."""

    inner: Stage
    seed: int = 0
    kept: bool = field(default=False, kw_only=True)
    name: ClassVar[str] = "sr"

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Blocks | Int2 | Bf16 | Fp16):
            raise UserError(f"codec {self.inner!r} does not round; 'sr' takes what does: sr(int4), topk(1/64)+sr(int4)")
        if not 0 <= self.seed <= MAX_SEED:
            raise UserError(f"codec 'sr' needs a seed of 0 to 2^63 - 1, not {self.seed}")

    def __repr__(self) -> str:
        return f"sr({self.inner!r}, {self.seed})" if self.seed else f"sr({self.inner!r})"

    @property
    def stamp(self) -> Stamp:
        """The wrapped codec's: that reads it."""
        return self.inner.stamp

    def under_feedback(self) -> Stochastic:
        """Two levels that reach all values lose more than they are given: under feedback `sign` keeps its own scale."""
        return replace(self, kept=True)

    def init(self, like: Tensor) -> Draws:
        """Before the first tensor."""
        return Draws(0, self.inner.init(like))

    def payload_bytes(self, numel: int, dtype: torch.dtype) -> int:
        """See Stage.payload_bytes."""
        return self.inner.payload_bytes(numel, dtype)

    def read(self, payload: Payload, numel: int, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        """See Stage.read."""
        return self.inner.read(payload, numel, dtype)

    def write(self, flat: Tensor, payload: Tensor, state: Draws | None) -> Draws:
        """See Stage.write. Raises CodecError for NaN, Inf, and values beyond float32."""
        before = state or self.init(flat)
        noise = Noise.of(self.seed, before.count)
        if not isinstance(self.inner, Blocks):
            if isinstance(self.inner, Int2):
                self._fill(flat, payload, Pairs(), noise)
            else:
                self._cast(flat, payload, noise)
            return Draws(before.count + 1, None)
        head, rest = payload[: self.inner.head_bytes], payload[self.inner.head_bytes :]
        after = self.inner.prepare(flat, head, before.inner)
        self.inner.widen(head)
        self._fill(flat, rest, Levels.of(self.inner, head, self.kept), noise)
        return Draws(before.count + 1, after)

    def _cast(self, flat: Tensor, payload: Tensor, noise: Noise) -> None:
        assert isinstance(self.inner, Cast) and self.inner.target is not None
        out = payload.view(self.inner.target)
        for start in range(0, flat.numel(), CHUNK):
            part = flat[start : start + CHUNK]
            found = cast(part.to(torch.float32), self.inner.target, noise, start)
            if bool((found.isinf() != part.isinf()).any()):
                raise CodecError(f"codec {self!r} cannot carry values beyond {torch.finfo(found.dtype).max:.5g}; use 'none'")
            out[start : start + CHUNK] = found

    def _fill(self, flat: Tensor, payload: Tensor, rule: Levels | Pairs, noise: Noise) -> None:
        """payload: scales, the upper bits of float32, then codes."""
        assert isinstance(self.inner, Blocks | Int2)
        numel, block = flat.numel(), self.inner.block
        split = len(payload) - -(-numel * rule.bits // 8)
        kind: Any = np.uint32 if rule.sent_bits == 32 else np.uint16
        scales = payload.numpy()[:split].view(kind).reshape(-(-numel // block), rule.width)
        step = CHUNK // block * block
        if flat.dtype == torch.float32 and flat.is_contiguous() and kernels.worth("chance", flat) is not None:
            step = numel // block * block or step
        for start in range(0, numel, step):
            part = flat[start : start + step].to(torch.float32).contiguous()
            short = -len(part) % block
            rows = (torch.nn.functional.pad(part, (0, short)) if short else part).view(-1, block)
            exact = rule.scales(rows, short)
            if not bool(exact.isfinite().all()):
                raise CodecError(f"codec {self!r} cannot carry NaN, Inf or values beyond float32")
            upper = exact.cpu().numpy().view(np.uint32) >> (32 - rule.sent_bits)
            scales[start // block :][: len(rows)] = upper.reshape(len(rows), -1)
            sent = payload[split + start * rule.bits // 8 : split + -(-(start + len(part)) * rule.bits // 8)]
            sent.copy_(rule.packed(rows, exact, noise, start)[: len(sent)])
