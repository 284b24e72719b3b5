"""Int4: each block as multiples, -7 to 7, of one 16-bit scale, absmax / 7 (4.13 bits a value at block 128)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from plesio.codecs.blocks import Blocks, divided, inverse, largest, rounded
from plesio.codecs.kernels.threads import spread
from plesio.codecs.packets import Payload

LEVELS, OFFSET = 7, 8


@dataclass(frozen=True, repr=False)
class Int4(Blocks):
    """Linear absmax quantisation, half to even. A code is the multiple + 8."""

    block: int = 128
    name: ClassVar[str] = "int4"
    bits: ClassVar[int] = 4

    def quantise(self, rows: Tensor, head: Tensor, short: int) -> tuple[Tensor, Tensor]:
        """See Blocks.quantise."""
        top = largest(rows)
        scales = rounded(divided(top, LEVELS), top, LEVELS)
        return scales, ((rows * inverse(scales)).round_() + OFFSET).to(torch.uint8)

    def levels(self, head: Payload) -> Tensor:
        """See Blocks.levels. -8 is never written, but a stranger may send it."""
        return torch.arange(-OFFSET, OFFSET, dtype=torch.float32).clamp_(min=-LEVELS)

    def quantise_compiled(self, compiled: Any, rows: Any, scales: Any, codes: Any, head: Any, short: int) -> int:
        """See Blocks.quantise_compiled."""
        return spread(compiled.encode_int4, [rows, scales, codes])

    def read_compiled(self, compiled: Any, rows: list[Any], weight: float | None, head: Payload) -> None:
        """See Blocks.read_compiled."""
        compiled.decode_far(compiled.decode_4, rows, weight)
