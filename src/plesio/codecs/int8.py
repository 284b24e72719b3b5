"""Int8: each block as int8 multiples of one float32 scale, absmax / 127 (8.13 bits a value at block 256).

Payload: scales (blocks,) float32, then codes (numel,) int8. NaN and Inf are refused. It does not round
stochastically; wrap it in ErrorFeedback for the bias.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plesio.codecs.base import CHUNK, Payload, Stage, fill
from plesio.errors import CodecError, UserError

LEVELS = 127
MAX_BLOCK = CHUNK
# No scale is below the smallest normal float32, so that none loses its precision or is flushed to zero.
MIN_SCALE = torch.finfo(torch.float32).tiny
# A scale keeps 17 of its 24 bits: then code * scale is exact in float32, so decoding is the same on every
# device, and encoding a decoded tensor finds the same scale: idempotent to the last bit.
SCALE_BITS = -(1 << 7)


@dataclass(frozen=True, repr=False)
class Int8(Stage):
    """Linear absmax quantisation, half to even; the error is at most scale / 2 (plus the dtype's rounding).

    block: values a scale, 1 to 262144.
    """

    block: int = 256
    name: ClassVar[str] = "int8"
    always_finite: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 1 <= self.block <= MAX_BLOCK:
            raise UserError(f"codec 'int8' needs a block of 1 to {MAX_BLOCK} values, not {self.block}")

    def payload_bytes(self, numel: int, dtype: torch.dtype) -> int:
        """See Stage.payload_bytes."""
        return 4 * self._blocks(numel) + numel

    def write(self, flat: Tensor, payload: Tensor) -> None:
        """See Stage.write. Raises CodecError for NaN, Inf, and values beyond float32."""
        numel, step = flat.numel(), self._step()
        split = 4 * self._blocks(numel)
        scales, codes = payload[:split].view(torch.float32), payload[split:].view(torch.int8)
        work = torch.empty(self._blocks(min(step, numel)) * self.block)
        for start in range(0, numel, step):
            part, out = flat[start : start + step], codes[start : start + step]
            values = work[: self._blocks(len(part)) * self.block]
            values[: len(part)] = part
            values[len(part) :] = 0
            rows = values.view(-1, self.block)
            scale = scales[start // self.block :][: len(rows)]
            low, high = torch.aminmax(rows, dim=1)
            scale.copy_(torch.maximum(-low, high).div_(LEVELS))
            if not bool(scale.isfinite().all()):
                raise CodecError(f"codec {self!r} cannot carry NaN, Inf or values beyond float32")
            scale.view(torch.int32).bitwise_and_(SCALE_BITS)
            scale.clamp_(min=MIN_SCALE)
            rows.div_(scale[:, None]).round_()
            out.copy_(values[: len(part)])

    def read(self, payload: Payload, numel: int, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        """See Stage.read."""
        step = self._step()
        scales = self._scales(payload, numel)
        codes = torch.empty(min(step, numel), dtype=torch.int8)
        work = torch.empty(self._blocks(min(step, numel)) * self.block)
        for start in range(0, numel, step):
            part = fill(codes[: numel - start], payload, 4 * len(scales) + start)
            values = work[: self._blocks(len(part)) * self.block]
            values[: len(part)] = part
            values.clamp_(min=-LEVELS)  # -128 is never written, but a stranger may send it
            rows = values.view(-1, self.block)
            rows.mul_(scales[start // self.block :][: len(rows), None])
            yield start, values[: len(part)].to(dtype)

    def check(self, payload: Payload, numel: int, dtype: torch.dtype) -> None:
        """Raises CodecError unless every scale is positive and its largest multiple finite in dtype."""
        scales = self._scales(payload, numel)
        if not bool(((scales > 0) & (scales * LEVELS).to(dtype).isfinite()).all()):
            raise CodecError(f"codec {self!r} met a scale that is not finite and positive")

    def _scales(self, payload: Payload, numel: int) -> Tensor:
        return fill(torch.empty(self._blocks(numel)), payload, 0)

    def _blocks(self, numel: int) -> int:
        return -(-numel // self.block)

    def _step(self) -> int:
        return CHUNK // self.block * self.block
