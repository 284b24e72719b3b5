"""Int8: each block as int8 multiples of one float32 scale, absmax / 127 (8.13 bits a value at block 256)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from plesio.codecs import kernels
from plesio.codecs.base import Adder
from plesio.codecs.blocks import TINY, Blocks, divided, largest
from plesio.codecs.kernels.threads import spread
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
        return spread(compiled.encode_int8, [rows, scales, codes.view(np.int8)])

    def read_compiled(self, compiled: Any, rows: list[Any], weight: float | None, head: Payload) -> None:
        """See Blocks.read_compiled."""
        scales, codes, out = rows
        compiled.decode_far(compiled.decode_8, [scales.view(np.float32), codes.view(np.int8), out], weight)

    def adder(
        self, payloads: Sequence[Payload], weights: Sequence[float], numel: int, dtype: torch.dtype, into: torch.dtype
    ) -> Adder:
        """See Stage.adder. Four at once, then what is left over."""
        fours, compiled, block = len(payloads) // 4 * 4, kernels.on_cpu("sums"), self.block
        floats = dtype == into == torch.float32
        if compiled is None or not fours or not floats or numel < max(kernels.FEW, block):
            return super().adder(payloads, weights, numel, dtype, into)
        rows, factors = self._rows(payloads[:fours], numel), np.array(weights[:fours], np.float32)
        others = super().adder(payloads[fours:], weights[fours:], numel, dtype, into)
        tail = super().adder(payloads[:fours], weights[:fours], numel, dtype, into) if numel % block else None

        def add(start: int, piece: Tensor) -> None:
            first, end = start // block, len(piece) // block * block
            out = piece[:end].numpy().reshape(-1, block)
            spread(compiled.add_fours_8, [*(each[first : first + len(out)] for each in rows), out], factors)
            if end < len(piece) and tail is not None:
                tail(start + end, piece[end:])
            others(start, piece)

        return add

    def _rows(self, payloads: Sequence[Payload], numel: int) -> list[Any]:
        """Of each payload's whole blocks the scales, (rows,), and the codes, (rows, block)."""
        whole, rows = numel // self.block, []
        for arrays in (self.arrays(payload, numel) for payload in payloads):
            codes = arrays.codes[: whole * self.block].view(np.int8).reshape(whole, -1)
            codes.flags.writeable = False  # as what came from the network is
            rows += [arrays.scales[:whole].view(np.float32), codes]
        return rows
