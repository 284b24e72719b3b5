"""Int2: a sign and one of two magnitudes a value, and the two magnitudes of each block (2.25 bits a value at block 128).

The magnitudes are the means of the smaller and the larger half, as two steps of Lloyd's method find them: near the
best four levels for values of any distribution, those that a top-k leaves as well. The mean squared error of normally
distributed values is .12.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from plesio.codecs import kernels
from plesio.codecs.base import CHUNK, Adder, Stage
from plesio.codecs.blocks import MAX_BLOCK, largest, narrowed, pack, rounded, unpack
from plesio.codecs.packets import Payload, Shape
from plesio.errors import CodecError, UserError

STEPS = 2


@dataclass(frozen=True, repr=False)
class Int2(Stage):
    """Payload: (smaller, larger) magnitude of each block in 16 bits each, then codes: 2 for a plus, 1 for the larger."""

    block: int = 128
    name: ClassVar[str] = "int2"
    always_finite: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 8 <= self.block <= MAX_BLOCK or self.block % 8:
            raise UserError(f"codec 'int2' needs a block of a multiple of 8 up to {MAX_BLOCK} values, not {self.block}")

    def payload_bytes(self, numel: int, dtype: torch.dtype) -> int:
        """See Stage.payload_bytes."""
        return 4 * self._blocks(numel) + -(-numel // 4)

    def write(self, flat: Tensor, payload: Tensor, state: Any) -> None:
        """See Stage.write. Raises CodecError for NaN, Inf, and values beyond float32."""
        numel, step, compiled = flat.numel(), CHUNK // self.block * self.block, kernels.worth("int2", flat)
        if compiled is not None and flat.dtype == torch.float32 and flat.is_contiguous():
            step = numel // self.block * self.block or step
        split = 4 * self._blocks(numel)
        scales = payload.numpy()[:split].view(np.uint16).reshape(-1, 2)
        for start in range(0, numel, step):
            part = flat[start : start + step].to(torch.float32)
            count = torch.full((self._blocks(len(part)),), float(self.block), dtype=torch.float64, device=part.device)
            short = -len(part) % self.block
            count[-1] -= short
            rows = (torch.nn.functional.pad(part, (0, short)) if short else part).view(-1, self.block)
            own = scales[start // self.block :][: len(rows)]
            codes = (_reference if compiled is None else compiled.encode)(rows, count, own)
            if codes is None:
                raise CodecError(f"codec {self!r} cannot carry NaN, Inf or values beyond float32")
            sent = payload[split + start // 4 : split + -(-(start + len(part)) // 4)]
            sent.copy_(codes[: len(sent)])

    def read(self, payload: Payload, numel: int, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        """See Stage.read."""
        step, pairs = CHUNK // self.block * self.block, self._pairs(payload, numel)
        for start in range(0, numel, step):
            yield start, narrowed(self._values(payload, pairs, start, min(start + step, numel)), dtype)

    def read_into(self, payload: Payload, out: Tensor) -> None:
        """See Stage.read_into."""
        if out.dtype == torch.float32 and out.device.type == "cpu":
            self._fill(payload, self._pairs(payload, out.numel()), 0, out)
        else:
            super().read_into(payload, out)

    @property
    def unit(self) -> int:
        """See Stage.unit."""
        return self.block

    def adder(
        self, payloads: Sequence[Payload], weights: Sequence[float], numel: int, dtype: torch.dtype, into: torch.dtype
    ) -> Adder:
        """See Stage.adder."""
        pairs = [self._pairs(payload, numel) for payload in payloads]

        def add(start: int, piece: Tensor) -> None:
            for payload, own, weight in zip(payloads, pairs, weights, strict=True):
                values = self._values(payload, own, start, start + len(piece))
                piece.add_(narrowed(values, dtype), alpha=weight)

        return add

    def _values(self, payload: Payload, pairs: Tensor, start: int, stop: int) -> Tensor:
        """(stop - start,) float32. start: a multiple of block."""
        values = torch.empty(stop - start)
        self._fill(payload, pairs, start, values)
        return values

    def _fill(self, payload: Payload, pairs: Tensor, start: int, out: Tensor) -> None:
        """out: (k,) float32 becomes the values from `start`, a multiple of block."""
        raw = np.frombuffer(payload, np.uint8)[4 * len(pairs) :][start // 4 : -(-(start + len(out)) // 4)]
        own, compiled = pairs[start // self.block : self._blocks(start + len(out))], kernels.worth("int2", out)
        whole = len(out) // self.block if compiled is not None else 0
        done = whole * self.block
        if compiled is not None and whole:
            compiled.decode(
                own[:whole].numpy(), raw[: done // 4].reshape(whole, -1), out[:done].view(whole, -1).numpy()
            )
        if done < len(out):
            codes = unpack(torch.from_numpy(raw[done // 4 :].copy()), 2)[: len(out) - done]
            each = own[whole:].repeat_interleave(self.block, 0)[: len(codes)]
            values = torch.where(codes & 1 == 1, each[:, 1], each[:, 0])
            out[done:] = torch.where(codes & 2 == 2, values, -values)

    def check(self, payload: Payload, shape: Shape, dtype: torch.dtype) -> None:
        """Raises CodecError unless all magnitudes are finite and not negative."""
        pairs = self._pairs(payload, int(np.prod(shape)))
        if not bool(((pairs >= 0) & pairs.isfinite()).all()):
            raise CodecError(f"codec {self!r} met a magnitude that is not finite and positive")

    def _pairs(self, payload: Payload, numel: int) -> Tensor:
        raw = np.frombuffer(payload, np.uint16, 2 * self._blocks(numel)) if numel else np.zeros(0, np.uint16)
        return torch.from_numpy((raw.astype(np.uint32) << 16).view(np.float32)).view(-1, 2)

    def _blocks(self, numel: int) -> int:
        return -(-numel // self.block)


def _reference(rows: Tensor, count: Tensor, scales: Any) -> Tensor | None:
    """The packed codes of rows: (n, block) float32, with `count`, (n,), values each; None where one is not finite.

    Fills scales: (n, 2) uint16, as they are sent.
    """
    pair, codes = _two_means(rows, count)
    if not bool(pair.isfinite().all()):
        return None
    scales[:] = pair.cpu().numpy().view(np.uint32) >> 16
    return pack(codes, 2).cpu()


def _two_means(rows: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """(magnitudes: (n, 2), codes: (n, block) uint8) of rows: (n, block), of which the first `count`, (n,), are values."""
    top, sizes = largest(rows), rows.double().abs()
    there = torch.arange(rows.shape[1], device=rows.device) < count[:, None]
    edge = sizes.sum(1) / count
    for _ in range(STEPS):
        above = sizes > edge[:, None]
        many = above.sum(1)
        total_above = torch.where(above, sizes, 0.0).sum(1)
        high = total_above / many.clamp(min=1)
        low = torch.where(there & ~above, sizes, 0.0).sum(1) / (count - many).clamp(min=1)
        high = torch.where(many > 0, high, low)
        edge = (high + low) / 2
    pair = torch.stack([rounded(means.float(), top, 1) for means in (low, high)], 1)
    nearer = sizes > ((pair[:, 0] + pair[:, 1]) / 2)[:, None]
    return pair, (~rows.signbit()).to(torch.uint8) << 1 | nearer.to(torch.uint8)
