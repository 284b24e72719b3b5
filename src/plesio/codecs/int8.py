"""Int8: each block as int8 multiples of one float32 scale, absmax / 127 (8.13 bits a value at block 256)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from plesio.codecs.blocks import TINY, Blocks, divided, largest
from plesio.codecs.packets import Payload

LEVELS = 127
# A scale keeps 17 of its 24 bits: then code * scale is exact in float32, so decoding is the same on every
# device, and encoding a decoded tensor finds the same scale: idempotent to the last bit.
SCALE_BITS = -(1 << 7)


@dataclass(frozen=True, repr=False)
class Int8(Blocks):
    """Linear absmax quantisation, half to even; the error is at most scale / 2 (plus the dtype's rounding).

    block: values a scale, 1 to 262144. A code is two's complement.
    """

    block: int = 256
    name: ClassVar[str] = "int8"
    bits: ClassVar[int] = 8
    wide: ClassVar[bool] = True

    def quantise(self, rows: Tensor, head: Tensor, short: int) -> tuple[Tensor, Tensor]:
        """See Blocks.quantise."""
        scales = divided(largest(rows), LEVELS)
        scales.view(torch.int32).bitwise_and_(SCALE_BITS)
        finite = scales.isfinite()
        scales = torch.where(finite, scales.clamp(min=TINY), scales)
        codes = (rows * (1.0 / scales)[:, None]).round_().to(torch.int8)
        return scales, codes.view(torch.uint8)

    def levels(self, head: Payload) -> Tensor:
        """See Blocks.levels. -128 is never written, but a stranger may send it."""
        return torch.arange(256, dtype=torch.uint8).view(torch.int8).float().clamp_(min=-LEVELS)

    def quantise_compiled(self, compiled: Any, rows: Any, scales: Any, codes: Any, head: Any, short: int) -> int:
        """See Blocks.quantise_compiled."""
        found: int = compiled.spread(compiled.encode_int8, [rows, scales, codes.view(np.int8)])
        return found

    def read_compiled(self, compiled: Any, rows: list[Any], weight: float | None, head: Payload) -> None:
        """See Blocks.read_compiled."""
        scales, codes, out = rows
        compiled.decode(compiled.decode_8, [scales.view(np.float32), codes.view(np.int8), out], weight)
