"""Quantisers of blocks: so many neighbours share a scale, and each is a code of a few bits.

Payload: a head of the codec's own, if it has one, then scales (blocks, of 16 or 32 bits), then codes, the first in the
lowest bits of a byte. The last block is filled up with zeros, which are not sent. NaN and Inf are refused.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from plesio.codecs import kernels
from plesio.codecs.base import CHUNK, Adder, Stage
from plesio.codecs.packets import Payload, Shape
from plesio.errors import CodecError, UserError

MAX_BLOCK = CHUNK
ROUNDED_UP = 1 + 2**-7  # what a scale of 16 bits may be beyond the exact one
TOP = float(np.finfo(np.float32).max)
TINY = float(np.finfo(np.float32).tiny)  # no scale but 0 is smaller, so that none loses its precision or is flushed to zero


@dataclass(frozen=True)
class Arrays:
    """A payload. scales: (blocks,), as they are sent, aligned. codes: (n,) uint8. many: are compiled loops worth it?"""

    scales: Any
    codes: Any
    head: Payload
    many: bool


@dataclass(frozen=True, repr=False)
class Blocks(Stage, ABC):
    """Contract of the quantisers below. block: values a scale; a multiple of 8 where codes have fewer than 8 bits."""

    block: int
    bits: ClassVar[int]
    rule: ClassVar[str] = "multiples"  # of the scale; or the nearest of "levels"; or "signs"
    wide: ClassVar[bool] = False  # are scales float32? Else the upper 16 bits of one
    head_bytes: ClassVar[int] = 0
    always_finite: ClassVar[bool] = True

    def __post_init__(self) -> None:
        unit = 8 if self.bits < 8 else 1
        if not 1 <= self.block <= MAX_BLOCK or self.block % unit:
            rule = f"a multiple of 8 up to {MAX_BLOCK}" if unit > 1 else f"1 to {MAX_BLOCK}"
            raise UserError(f"codec {self.name!r} needs a block of {rule} values, not {self.block}")

    @property
    def unit(self) -> int:
        """See Stage.unit."""
        return self.block

    # -- what each of them decides

    @abstractmethod
    def quantise(self, rows: Tensor, head: Tensor, short: int) -> tuple[Tensor, Tensor]:
        """(scales: (n,) float32, which their bits can hold; codes: (n, block) uint8) of rows: (n, block) float32.

        short: how many zeros fill up the last row.
        """

    @abstractmethod
    def levels(self, head: Payload) -> Tensor:
        """(2^bits,) float32: what each code stands for, at scale 1."""

    @abstractmethod
    def quantise_compiled(self, compiled: Any, rows: Any, scales: Any, codes: Any, head: Any, short: int) -> int:
        """The same by a compiled loop, into scales and codes as they are sent. The number of a bad row, or -1."""

    @abstractmethod
    def read_compiled(self, compiled: Any, rows: list[Any], weight: float | None, head: Payload) -> None:
        """rows: scales, codes, out; out: (n, block) float32 is set to the values, or weight times them are added."""

    def between(self, head: Tensor) -> Tensor | None:
        """(15,) int16: between 16 levels, where that is the rule; see nf4.fine_middles."""
        return None

    def prepare(self, flat: Tensor, head: Tensor, state: Any) -> Any:
        """Fills head: (head_bytes,) uint8. The next state."""
        return None

    def widen(self, head: Tensor) -> None:
        """For stochastic rounding: moves the outer levels that head holds as far out as a block's largest magnitude."""

    # -- what all do

    @property
    def scale_bytes(self) -> int:
        """Of one."""
        return 4 if self.wide else 2

    def payload_bytes(self, numel: int, dtype: torch.dtype) -> int:
        """See Stage.payload_bytes."""
        return self._codes_at(numel) + -(-numel * self.bits // 8)

    def write(self, flat: Tensor, payload: Tensor, state: Any) -> Any:
        """See Stage.write. Raises CodecError for NaN, Inf, and values beyond float32."""
        numel, split = flat.numel(), self._codes_at(flat.numel())
        head, codes = payload[: self.head_bytes], payload[split:]
        after = self.prepare(flat, head, state)
        if (on_device := self._device_kernels(flat)) is not None:
            if not on_device.encode(self, flat, payload[self.head_bytes :], self.between(head)):
                raise self._refusal()
            return after
        scales = payload.numpy()[self.head_bytes : split].view(np.float32 if self.wide else np.uint16)
        step = CHUNK // self.block * self.block
        compiled = kernels.worth("blocks", flat)
        if compiled is not None and flat.dtype == torch.float32 and flat.is_contiguous():
            step = numel // self.block * self.block or step
        for start in range(0, numel, step):
            part = flat[start : start + step].to(torch.float32).contiguous()
            short = -len(part) % self.block
            if short:
                part = torch.nn.functional.pad(part, (0, short))
            rows = part.view(-1, self.block)
            own = scales[start // self.block :][: len(rows)]
            begin = start * self.bits // 8
            sent = codes[begin : begin + -(-min(step, numel - start) * self.bits // 8)]
            self._write_rows(compiled, rows, own, sent, head, short)
        return after

    def _write_rows(
        self, compiled: Any, rows: Tensor, scales: Any, sent: Tensor, head: Tensor, short: int
    ) -> None:
        whole = rows.numel() * self.bits // 8
        if compiled is not None:
            room = sent if len(sent) == whole else torch.empty(whole, dtype=torch.uint8)
            places = room.numpy().reshape(len(rows), -1)
            if self.quantise_compiled(compiled, rows.numpy(), scales, places, head.numpy(), short) != -1:
                raise self._refusal()
            codes = room
        else:
            found, codes = self.quantise(rows, head, short)
            if not bool(found.isfinite().all()):
                raise self._refusal()
            exact = found.cpu().numpy()
            scales[:] = exact if self.wide else exact.view(np.uint32) >> 16
            codes = pack(codes, self.bits).cpu()
        if codes.data_ptr() != sent.data_ptr():
            sent.copy_(codes[: len(sent)])

    def _device_kernels(self, flat: Tensor) -> Any:
        """Of where the tensor is, for blocks of this size; or None."""
        found = kernels.on_device(flat.device.type) if flat.numel() else None
        return found if found is not None and self.block <= found.MAX_BLOCK else None

    def _refusal(self) -> CodecError:
        return CodecError(f"codec {self!r} cannot carry NaN, Inf or values beyond float32")

    def read(self, payload: Payload, numel: int, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        """See Stage.read."""
        step = CHUNK // self.block * self.block
        work, arrays = torch.empty(min(step, -(-numel // self.block) * self.block)), self.arrays(payload, numel)
        for start in range(0, numel, step):
            values = work[: min(step, numel - start)]
            self._read_rows(arrays, start, values, None)
            yield start, narrowed(values, dtype)

    def read_into(self, payload: Payload, out: Tensor) -> None:
        """See Stage.read_into."""
        if (on_device := self._device_kernels(out)) is not None:
            on_device.decode(self, payload, self.head_bytes, out, None, self.table(payload))
        elif out.dtype == torch.float32 and out.device.type == "cpu":
            self._read_rows(self.arrays(payload, out.numel()), 0, out, None)
        else:
            super().read_into(payload, out)

    def add_into(self, payload: Payload, into: Tensor, weight: float, dtype: torch.dtype) -> None:
        """See Stage.add_into."""
        on_device, same = self._device_kernels(into), into.dtype == dtype == torch.float32
        if on_device is not None and same:
            on_device.decode(self, payload, self.head_bytes, into, weight, self.table(payload))
        elif on_device is not None:
            values = torch.empty_like(into, dtype=dtype)
            self.read_into(payload, values)
            into.add_(values, alpha=weight)
        elif same and into.device.type == "cpu":
            self._read_rows(self.arrays(payload, into.numel()), 0, into, weight)
        else:
            super().add_into(payload, into, weight, dtype)

    def table(self, payload: Payload) -> Tensor | None:
        """The levels, where codes are nothing else."""
        return self.levels(payload[: self.head_bytes]) if self.rule == "levels" else None

    def adder(
        self, payloads: Sequence[Payload], weights: Sequence[float], numel: int, dtype: torch.dtype, into: torch.dtype
    ) -> Adder:
        """See Stage.adder."""
        opened = [(self.arrays(payload, numel), weight) for payload, weight in zip(payloads, weights, strict=True)]

        def add(start: int, piece: Tensor) -> None:
            for arrays, weight in opened:
                self._read_rows(arrays, start, piece, weight)

        def add_converted(start: int, piece: Tensor) -> None:
            values = torch.empty(len(piece))
            for arrays, weight in opened:
                self._read_rows(arrays, start, values, None)
                piece.add_(narrowed(values, dtype), alpha=weight)

        return add if dtype == into == torch.float32 else add_converted

    def arrays(self, payload: Payload, numel: int) -> Arrays:
        """A payload that is read by rows."""
        raw, at = np.frombuffer(payload, np.uint8), self._codes_at(numel)
        return Arrays(self._raw_scales(payload, numel), raw[at:], payload[: self.head_bytes], numel >= kernels.FEW)

    def _read_rows(self, arrays: Arrays, start: int, out: Tensor, weight: float | None) -> None:
        """out: (k,) float32 is set to the values from `start`, a multiple of block; or weight times them are added."""
        stop = start + len(out)
        scales = arrays.scales[start // self.block : -(-stop // self.block)]
        codes = arrays.codes[start * self.bits // 8 : -(-stop * self.bits // 8)]
        compiled = kernels.on_cpu("blocks") if arrays.many else None
        whole = len(out) // self.block if compiled is not None else 0
        if compiled is not None and whole:
            places = codes[: whole * self.block * self.bits // 8].reshape(whole, -1)
            rows = out[: whole * self.block].numpy().reshape(whole, -1)
            self.read_compiled(compiled, [scales[:whole], places, rows], weight, arrays.head)
        if rest := len(out) - whole * self.block:
            found = unpack(torch.from_numpy(codes[whole * self.block * self.bits // 8 :].copy()), self.bits)[:rest]
            each = self._exact(scales[whole:]).repeat_interleave(self.block)[:rest]
            values = self.levels(arrays.head)[found.int()] * each
            tail = out[whole * self.block :]
            if weight is None:
                tail.copy_(values)
            else:
                tail.add_(values, alpha=weight)

    def check(self, payload: Payload, shape: Shape, dtype: torch.dtype) -> None:
        """Raises CodecError unless no scale is negative, and what the largest level makes of each is a number of dtype."""
        raw, levels = self._raw_scales(payload, math.prod(shape)), self.levels(payload[: self.head_bytes])
        top = raw.max(initial=0, keepdims=True)  # of their bits: what is infinite, NaN or negative has more than a number
        most = min(torch.finfo(dtype).max * ROUNDED_UP, TOP)
        infinite = 0x7F800000 if self.wide else 0x7F80
        if top >= infinite or not float(self._exact(top)) * float(levels.abs().max()) <= most:
            raise CodecError(f"codec {self!r} met a scale that is not finite and positive")

    def _raw_scales(self, payload: Payload, numel: int) -> Any:
        """(blocks,), as they are sent, aligned: unsigned integers."""
        raw = np.frombuffer(payload, np.uint8)[self.head_bytes : self._codes_at(numel)]
        return raw.copy().view(np.uint32 if self.wide else np.uint16)

    def _exact(self, raw: Any) -> Tensor:
        """The same as float32."""
        return torch.from_numpy((raw if self.wide else raw.astype(np.uint32) << 16).view(np.float32))

    def _codes_at(self, numel: int) -> int:
        return self.head_bytes + self.scale_bytes * -(-numel // self.block)


def largest(rows: Tensor) -> Tensor:
    """(n,): of each row the largest magnitude; NaN and Inf stay what they are."""
    low, high = torch.aminmax(rows, dim=1)
    return torch.maximum(-low, high)


def divided(values: Tensor, by: int) -> Tensor:
    """Rounded correctly on every device: by a number of Python's, CUDA multiplies with its reciprocal instead."""
    return values / torch.full((), by, dtype=values.dtype, device=values.device)


def largest_scale(levels: int) -> int:
    """The bits of the largest 16-bit scale whose multiple by `levels` is finite."""
    return int(np.float32(np.float32(TOP) / np.float32(levels)).view(np.int32)) & ~0xFFFF


def rounded(scales: Tensor, top: Tensor, levels: int) -> Tensor:
    """Scales, (n,) float32, of which 16 bits remain: 0 where top, a block's largest magnitude, is 0, else normal numbers."""
    least = int(np.float32(TINY).view(np.int32))
    bits = ((scales.view(torch.int32) + 0x8000) & -0x10000).clamp(least, largest_scale(levels)).view(torch.float32)
    return torch.where(top.isfinite(), torch.where(top == 0, 0.0, bits), top)


def inverse(scales: Tensor) -> Tensor:
    """(n, 1): 1 / scale, 0 for 0."""
    return torch.where(scales > 0, 1.0 / scales, 0.0)[:, None]


def narrowed(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values as dtype; a level beyond its largest number becomes that."""
    if dtype in (torch.float32, torch.float64):
        return values.to(dtype)
    most = torch.finfo(dtype).max
    return values.clamp(-most, most).to(dtype)


def pack(codes: Tensor, bits: int) -> Tensor:
    """(n * bits / 8,) uint8 of codes: (n,) or (rows, block) uint8, n a multiple of 8."""
    flat = codes.reshape(-1)
    if bits == 8:
        return flat
    groups = flat.view(-1, 8 // bits)
    found = groups[:, 0].clone()
    for k in range(1, 8 // bits):
        found |= groups[:, k] << (k * bits)
    return found


def unpack(packed: Tensor, bits: int) -> Tensor:
    """(n * 8 / bits,) uint8: the inverse."""
    if bits == 8:
        return packed
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
    return ((packed[:, None] >> shifts) & ((1 << bits) - 1)).view(-1)
