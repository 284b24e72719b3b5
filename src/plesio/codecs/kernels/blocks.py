"""The compiled loops of int8, int4, sign and what has 16 levels; see compiling.py for their rules."""

# mypy: ignore-errors
# numba compiles these functions for what they are called with: they have no types of their own.

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from plesio.codecs.kernels.compiling import (
    I32,
    INF,
    LINE,
    MOST_1,
    MOST_7,
    ONE,
    ROUND,
    TINY,
    as_bits,
    as_float,
    compiled,
    largest,
    put,
    rounded,
    soon,
)
from plesio.codecs.kernels.threads import Kernel, spread

SCALE_MASK = np.int32(-(1 << 7))
PAIRS = 2 * 256  # a byte's two levels
FAR = 1 << 25  # bytes that no cache keeps until they are read
GATHER = np.uint64(0x0102040810204080)  # times eight bytes of 0 or 1 it has them as the bits of the highest byte


@compiled()
def encode_int8(x, scales, codes):
    """(x: (rows, block) float32, scales: (rows,) float32, codes: (rows, block) int8) -> a bad row, or -1."""
    for r in range(x.shape[0]):
        soon(x, r)
        row, out = x[r], codes[r]
        top = largest(row.view(np.int32))
        if top >= INF:
            return r
        scale = as_float(max(I32(as_bits(as_float(top) / np.float32(127)) & SCALE_MASK), TINY))
        scales[r] = scale
        inverse = ONE / scale
        for i in range(len(row)):
            out[i] = np.int8(as_bits(row[i] * inverse + ROUND))
    return -1


@compiled()
def encode_int4(x, scales, codes):
    """(x: (rows, block) float32, scales: (rows,) uint16, codes: (rows, block / 2) uint8) -> a bad row, or -1."""
    for r in range(x.shape[0]):
        soon(x, r)
        row, out = x[r], codes[r]
        top = largest(row.view(np.int32))
        if top >= INF:
            return r
        scale = rounded(as_bits(as_float(top) / np.float32(7)), top, MOST_7)
        scales[r] = np.uint16(scale >> I32(16))
        inverse = ONE / as_float(scale) if scale > 0 else np.float32(0)
        for i in range(len(out)):
            low = I32(as_bits(row[2 * i] * inverse + ROUND) + I32(8))
            high = I32(as_bits(row[2 * i + 1] * inverse + ROUND) + I32(8))
            out[i] = np.uint8(I32(low & I32(15)) | I32(I32(high & I32(15)) << I32(4)))
    return -1


@compiled()
def encode_16(x, scales, codes, middles, room):
    """As encode_int4, to the nearest of 16 levels of blocks of largest magnitude 1. room: (block / 2,) int32.

    middles: (15,) int16, between them, in the steps of nf4.FINE, so that sixteen are compared at once.
    """
    found = room.view(np.int16)
    for r in range(x.shape[0]):
        soon(x, r)
        row, out = x[r], codes[r]
        top = largest(row.view(np.int32))
        if top >= INF:
            return r
        scale = rounded(top, top, MOST_1)
        scales[r] = np.uint16(scale >> I32(16))
        inverse = ONE / as_float(scale) if scale > 0 else np.float32(0)
        for i in range(len(row)):
            found[i] = np.int16(as_bits(row[i] * inverse * np.float32(32000) + ROUND))
        for i in range(len(row)):
            value, code = found[i], np.int16(0)
            for j in range(15):
                code = np.int16(code + np.int16(value > middles[j]))
            found[i] = code
        for i in range(len(out)):
            out[i] = np.uint8(found[2 * i] | np.int16(found[2 * i + 1] << np.int16(4)))
    return -1


@compiled(fastmath={"reassoc"})
def encode_sign(x, sums, codes, room):
    """(x: (rows, block) float32, sums: (rows,) float64, of magnitudes, codes: (rows, block / 8)) -> a bad row, or -1.

    room: (block / 4,) int32.
    """
    work, eights = room.view(np.uint8), room.view(np.uint64)
    for r in range(x.shape[0]):
        soon(x, r)
        row, out = x[r], codes[r]
        bits = row.view(np.int32)
        total = np.float64(0)
        for i in range(len(row)):
            total += np.float64(abs(row[i]))
        if not math.isfinite(total):
            return r
        sums[r] = total
        for i in range(len(row)):
            work[i] = np.uint8(I32(~bits[i]) >> I32(31) & I32(1))
        for i in range(len(out)):
            out[i] = np.uint8(np.uint64(eights[i] * GATHER) >> np.uint64(56))
    return -1


@functools.cache
def decode_8(add: bool, far: bool) -> Kernel:
    """(scales: (rows,) float32, codes: (rows, block) int8, out: (rows, block) float32, weight, room: (block,) int32).

    add: to out, or does it become the values? far: past the caches, see compiling.put.
    """

    @compiled()
    def kernel(scales, codes, out, weight, room):
        near = room.view(np.float32)
        for r in range(out.shape[0]):
            row, code, scale = near if far else out[r], codes[r], scales[r] * weight
            for i in range(len(row)):
                value = np.float32(max(code[i], np.int8(-127))) * scale
                row[i] = row[i] + value if add else value
            if far:
                put(out[r], row)
        return -1

    return kernel


@functools.cache
def decode_4(add: bool, far: bool) -> Kernel:
    """As decode_8. scales: (rows,) uint16, codes: (rows, block / 2) uint8, of int4."""

    @compiled()
    def kernel(scales, codes, out, weight, room):
        near = room.view(np.float32)
        for r in range(out.shape[0]):
            if not far:
                soon(out, r)
            row, code = near if far else out[r], codes[r]
            scale = as_float(I32(I32(scales[r]) << I32(16))) * weight
            for i in range(len(code)):
                both = I32(code[i])
                low = np.float32(max(I32(I32(both & I32(15)) - I32(8)), I32(-7))) * scale
                high = np.float32(max(I32(I32(both >> I32(4)) - I32(8)), I32(-7))) * scale
                row[2 * i] = row[2 * i] + low if add else low
                row[2 * i + 1] = row[2 * i + 1] + high if add else high
            if far:
                put(out[r], row)
        return -1

    return kernel


@functools.cache
def decode_16(add: bool) -> Kernel:
    """As decode_4, with levels: (16,) float32. Each byte stands for two of them: a table has all pairs.

    A row's levels are multiplied after the next row's are written: what was written in small pieces a moment ago cannot
    be read in large ones without waiting. room: (PAIRS + 2 * block,) int32.
    """

    @compiled()
    def kernel(scales, codes, out, weight, levels, room):
        count, pairs = len(out), room[:PAIRS].view(np.float32)
        for i in range(256):
            pairs[2 * i], pairs[2 * i + 1] = levels[i & 15], levels[i >> 4]
        table, two = pairs.view(np.uint64), room[PAIRS:].view(np.float32).reshape(2, out.shape[1])
        for r in range(count + 1):
            if r < count:
                code, both = codes[r], (two[r & 1] if add else out[r]).view(np.uint64)
                for i in range(len(code)):
                    both[i] = table[code[i]]
            if r > 0:
                row, found = out[r - 1], two[(r - 1) & 1] if add else out[r - 1]
                scale = as_float(I32(I32(scales[r - 1]) << I32(16))) * weight
                for i in range(len(row)):
                    row[i] = row[i] + found[i] * scale if add else found[i] * scale
        return -1

    return kernel


@functools.cache
def decode_sign(add: bool) -> Kernel:
    """(scales: (rows,) uint16, codes: (rows, block / 8) uint8, out: (rows, block) float32, weight)."""

    @compiled()
    def kernel(scales, codes, out, weight):
        for r in range(out.shape[0]):
            row, code = out[r], codes[r]
            scale = as_bits(as_float(I32(I32(scales[r]) << I32(16))) * weight)
            for i in range(len(code)):
                eight = I32(~I32(code[i]))
                for k in range(8):
                    value = as_float(I32(I32(I32(eight >> I32(k)) << I32(31)) ^ scale))
                    row[8 * i + k] = row[8 * i + k] + value if add else value
        return -1

    return kernel


def nearest(rows: list[Any], middles: Any) -> int:
    """rows: x, scales, codes. See encode_16."""
    return spread(encode_16, rows, middles, room=rows[0].shape[1] // 2)


def signs(rows: list[Any]) -> int:
    """rows: x, sums, codes. See encode_sign."""
    return spread(encode_sign, rows, room=rows[0].shape[1] // 4)


def decode(
    kernels: Callable[[bool], Kernel], rows: list[Any], weight: float | None, *others: Any, room: int = 0
) -> None:
    """rows: scales, codes, out. out is set to what they stand for; or weight times that is added."""
    rows[1].flags.writeable = False  # as what came from the network is, so that one loop serves both
    spread(kernels(weight is not None), rows, np.float32(1.0 if weight is None else weight), *others, room=room)


def decode_far(kernels: Callable[..., Kernel], rows: list[Any], weight: float | None) -> None:
    """The same by decode_8 or decode_4, past the caches where they cannot keep what is decoded until it is read."""
    out = rows[2]
    far = weight is None and out.nbytes >= FAR and out.ctypes.data % LINE == 0 and out.strides[0] % LINE == 0
    decode(functools.partial(kernels, far=far), rows, weight, room=out.shape[1])


def decode_levels(rows: list[Any], weight: float | None, levels: Any) -> None:
    """The same by decode_16."""
    decode(decode_16, rows, weight, levels, room=PAIRS + 2 * rows[2].shape[1])
