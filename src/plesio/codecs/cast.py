"""Casts: the values in their own dtype, or in 16 bits. NaN and Inf pass through, as NaN and Inf.

They do not scale: a finite value that the narrower dtype would turn into Inf is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from plesio.codecs.base import CHUNK, Adder, Stage, fill
from plesio.codecs.packets import Payload
from plesio.errors import CodecError


class Cast(Stage):
    """Values as `target`, rounded half to even; None keeps the tensor's own dtype, exactly."""

    target: ClassVar[torch.dtype | None]

    @property
    def unit(self) -> int:
        """See Stage.unit."""
        return 1

    def payload_bytes(self, numel: int, dtype: torch.dtype) -> int:
        """See Stage.payload_bytes."""
        return numel * (self.target or dtype).itemsize

    def write(self, flat: Tensor, payload: Tensor, state: Any) -> None:
        """See Stage.write. Raises CodecError when a finite value overflows the target."""
        out = payload.view(self.target or flat.dtype)
        step = CHUNK if flat.device.type == "cpu" else max(1, flat.numel())  # of another device: it waits once
        for start in range(0, flat.numel(), step):
            part, cast = flat[start : start + step], out[start : start + step]
            made = cast.copy_(part) if part.device.type == "cpu" else part.to(cast.dtype)
            if made is not cast:
                cast.copy_(made)
            largest = torch.finfo(cast.dtype).max
            if made.dtype == part.dtype or bool(torch.stack(torch.aminmax(part)).abs().max() <= largest):
                continue
            if bool((made.isinf() != part.isinf()).any()):
                raise CodecError(f"codec {self!r} cannot carry values beyond {largest:.5g}; use 'none'")

    def read(self, payload: Payload, numel: int, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        """See Stage.read."""
        carried = self.target or dtype
        buffer = torch.empty(min(CHUNK, numel), dtype=carried)
        for start in range(0, numel, CHUNK):
            yield start, fill(buffer[: numel - start], payload, start * carried.itemsize).to(dtype)

    def adder(
        self, payloads: Sequence[Payload], weights: Sequence[float], numel: int, dtype: torch.dtype, into: torch.dtype
    ) -> Adder:
        """See Stage.adder."""
        carried = self.target or dtype

        def add(start: int, piece: Tensor) -> None:
            values = torch.empty(len(piece), dtype=carried)
            for payload, weight in zip(payloads, weights, strict=True):
                piece.add_(fill(values, payload, start * carried.itemsize).to(dtype), alpha=weight)

        return add


@dataclass(frozen=True, repr=False)
class Identity(Cast):
    """The raw values: exact for every float dtype."""

    name: ClassVar[str] = "none"
    target: ClassVar[torch.dtype | None] = None
    needs_feedback: ClassVar[bool] = False


@dataclass(frozen=True, repr=False)
class Bf16(Cast):
    """bfloat16: 8 bits of precision, the range of float32."""

    name: ClassVar[str] = "bf16"
    target: ClassVar[torch.dtype | None] = torch.bfloat16


@dataclass(frozen=True, repr=False)
class Fp16(Cast):
    """float16: 11 bits of precision, at most 65504."""

    name: ClassVar[str] = "fp16"
    target: ClassVar[torch.dtype | None] = torch.float16
