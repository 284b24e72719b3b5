"""What encodes and decodes blocks on CPUs, near the speed of memory: compiled by numba, cached on disk.

Each does to the bit what its stage does in torch, which is the reference, and the path of other devices. Blocks are rows;
their length and the bits of a code are constants of the compiled loops. A block's largest magnitude is found on the bits
of its values, as integers: that loop needs no order of floating-point operations, and finds NaN and Inf, too. They release
the GIL; `spread` gives the rows to several threads.
"""

# mypy: ignore-errors
# numba compiles these functions for what they are called with: they have no types of their own.

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import llvmlite.ir as ir
import numpy as np
import torch
from numba import njit, types
from numba.extending import intrinsic

Kernel = Callable[..., int]
ABS, INF = np.int32(0x7FFFFFFF), np.int32(0x7F800000)
SCALE_MASK, TINY = np.int32(-(1 << 7)), np.int32(0x00800000)
ONE = np.float32(1)
ROUND = np.float32(3 << 22)  # added, it leaves the nearest integer, half to even, in the lowest bits
MANY = 1 << 20  # values from which threads pay
_compile = functools.partial(njit, nogil=True, cache=True, error_model="numpy")


@intrinsic
def as_float(context: Any, bits: Any) -> Any:
    """The float32 of these bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def as_bits(context: Any, value: Any) -> Any:
    """The bits of a float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@functools.cache
def encode_int8(block: int) -> Kernel:
    """(x: (rows, block) float32, scales: (rows,) float32, codes: (rows, block) int8) -> a bad row, or -1."""
    levels = np.float32(127)

    @_compile
    def kernel(x, scales, codes):
        for r in range(x.shape[0]):
            bits, row, out = x[r].view(np.int32), x[r], codes[r]
            top = np.int32(0)
            for i in range(block):
                top = max(top, bits[i] & ABS)
            if top >= INF:
                return r
            scale = as_float(max(as_bits(as_float(top) / levels) & SCALE_MASK, TINY))
            scales[r] = scale
            inverse = ONE / scale
            for i in range(block):
                out[i] = np.int8(as_bits(row[i] * inverse + ROUND))
        return -1

    return kernel


@functools.cache
def decode_int8(block: int, add: bool) -> Kernel:
    """(scales: (rows,) float32, codes: (rows, block) int8, out: (rows, block) float32, weight)."""

    @_compile
    def kernel(scales, codes, out, weight):
        for r in range(out.shape[0]):
            row, code, scale = out[r], codes[r], scales[r] * weight
            for i in range(block):
                value = np.float32(max(code[i], np.int8(-127))) * scale
                if add:
                    row[i] += value
                else:
                    row[i] = value
        return -1

    return kernel


@functools.cache
def encode_linear(block: int, bits: int, levels: int) -> Kernel:
    """(x: (rows, block) float32, scales: (rows,) uint16, codes: (rows, block * bits / 8) uint8) -> a bad row, or -1."""
    per = 8 // bits
    count = block // per
    most, offset = np.float32(levels), np.int32(1 << (bits - 1))
    mask, largest = np.int32((1 << bits) - 1), np.int32(largest_scale(levels))

    @_compile
    def kernel(x, scales, codes):
        for r in range(x.shape[0]):
            bits_, row, out = x[r].view(np.int32), x[r], codes[r]
            top = np.int32(0)
            for i in range(block):
                top = max(top, bits_[i] & ABS)
            if top >= INF:
                return r
            scale = rounded(as_bits(as_float(top) / most), top, largest)
            scales[r] = np.uint16(scale >> np.int32(16))
            inverse = ONE / as_float(scale) if scale > 0 else np.float32(0)
            for i in range(count):
                code = np.int32(0)
                for k in range(per):
                    one = (as_bits(row[i * per + k] * inverse + ROUND) + offset) & mask
                    code |= one << np.int32(k * bits)
                out[i] = np.uint8(code)
        return -1

    return kernel


@functools.cache
def encode_nearest(block: int, bits: int) -> Kernel:
    """(x, scales, codes, middles: (2^bits - 1,) float32 between the levels of a block of largest magnitude 1)."""
    per = 8 // bits
    count, steps = block // per, (1 << bits) - 1
    largest = np.int32(largest_scale(1))

    @_compile
    def kernel(x, scales, codes, middles):
        found = np.empty(block, np.uint8)
        for r in range(x.shape[0]):
            bits_, row, out = x[r].view(np.int32), x[r], codes[r]
            top = np.int32(0)
            for i in range(block):
                top = max(top, bits_[i] & ABS)
            if top >= INF:
                return r
            scale = rounded(top, top, largest)
            scales[r] = np.uint16(scale >> np.int32(16))
            inverse = ONE / as_float(scale) if scale > 0 else np.float32(0)
            for i in range(block):
                value, code = row[i] * inverse, np.int32(0)
                for j in range(steps):
                    code += np.int32(value > middles[j])
                found[i] = np.uint8(code)
            for i in range(count):
                code = np.int32(0)
                for k in range(per):
                    code |= np.int32(found[i * per + k]) << np.int32(k * bits)
                out[i] = np.uint8(code)
        return -1

    return kernel


@_compile(inline="always")
def rounded(scale, top, largest):
    """The bits of a scale, of which 16 remain: 0 for a block of zeros, else a normal number, not beyond the largest."""
    if top == 0:
        return np.int32(0)
    return min(max((scale + np.int32(0x8000)) & np.int32(-0x10000), TINY), largest)


def largest_scale(levels: int) -> int:
    """The bits of the largest 16-bit scale whose multiple by `levels` is finite."""
    top = np.float32(np.finfo(np.float32).max) / np.float32(levels)
    return int(top.view(np.int32)) & ~0xFFFF


@functools.cache
def decode_low(block: int, bits: int, add: bool) -> Kernel:
    """(scales: (rows,) float32, codes: (rows, block * bits / 8) uint8, out: (rows, block) float32, table, weight).

    table: (256, 8 / bits) float32: what the codes of a byte stand for, at scale 1.
    """
    per = 8 // bits
    count = block // per

    @_compile
    def kernel(scales, codes, out, table, weight):
        for r in range(out.shape[0]):
            row, code, scale = out[r], codes[r], scales[r] * weight
            for i in range(count):
                levels = table[code[i]]
                for k in range(per):
                    if add:
                        row[i * per + k] += levels[k] * scale
                    else:
                        row[i * per + k] = levels[k] * scale
        return -1

    return kernel


@functools.cache
def encode_sign(block: int) -> Kernel:
    """(x: (rows, block) float32, scales: (rows,) float64: the sums of magnitudes, codes: (rows, block / 8) uint8)."""
    count = block // 8

    @_compile(fastmath={"reassoc"})
    def kernel(x, scales, codes):
        for r in range(x.shape[0]):
            bits, row, out = x[r].view(np.int32), x[r], codes[r]
            total = np.float64(0)
            for i in range(block):
                total += np.float64(abs(row[i]))
            if not math.isfinite(total):
                return r
            scales[r] = total
            for i in range(count):
                code = np.int32(0)
                for k in range(8):
                    code |= ((bits[i * 8 + k] >> np.int32(31)) & np.int32(1)) << np.int32(k)
                out[i] = np.uint8(~code)
        return -1

    return kernel


def decode(
    block: int, bits: int, scales: Any, codes: Any, out: Any, levels: torch.Tensor, weight: float | None
) -> None:
    """out: (rows, block) float32 is set to levels of codes times scales; or weight times that is added."""
    codes.flags.writeable = False  # as what came from the network is, so that one loop serves both
    add, factor = weight is not None, np.float32(1.0 if weight is None else weight)
    if bits == 8:
        spread(decode_int8(block, add), [scales, codes.view(np.int8), out], factor)
    else:
        spread(decode_low(block, bits, add), [scales, codes, out], _table(levels, bits), factor)


def _table(levels: torch.Tensor, bits: int) -> Any:
    """(256, 8 / bits) float32: what the codes of a byte stand for."""
    shifts = torch.arange(0, 8, bits)
    return levels[(torch.arange(256)[:, None] >> shifts) & ((1 << bits) - 1)].numpy()


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "plesio-kernel")


def spread(kernel: Kernel, rows: list[Any], *others: Any) -> int:
    """kernel(*rows, *others), its rows dealt to as many threads as torch may use. What the first that is not -1 returned.

    rows: arrays whose first extents are the same.
    """
    count = len(rows[0])
    threads = min(torch.get_num_threads(), max(array.nbytes for array in rows) // MANY, count)
    if threads <= 1:
        return kernel(*rows, *others)
    cuts = [count * n // threads for n in range(threads + 1)]
    calls = [
        _pool(threads).submit(kernel, *(array[begin:end] for array in rows), *others)
        for begin, end in zip(cuts[1:-1], cuts[2:], strict=True)
    ]
    found = [kernel(*(array[: cuts[1]] for array in rows), *others)]
    return next((bad for bad in (*found, *(call.result() for call in calls)) if bad != -1), -1)
