"""What encodes and decodes blocks on CPUs, near the speed of memory: compiled by numba, cached on disk.

Each does to the bit what its stage does in torch, which is the reference, and the path of other devices. Blocks are rows;
the bits of a code are constants of the compiled loops, the length of a row is not: short loops of known length would be
unrolled, and be no vector loops. A row's largest magnitude is found on the bits of its values, as integers: that needs no
order of floating-point operations, and finds NaN and Inf, too. Integers are kept to 32 bits, which numba would widen. The
loops release the GIL; `spread` gives the rows to several threads.
"""

# mypy: ignore-errors
# numba compiles these functions for what they are called with: they have no types of their own.

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import llvmlite.ir as ir
import numpy as np
import torch
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from plesio.codecs.blocks import largest_scale

Kernel = Callable[..., int]
ABS, INF = np.int32(0x7FFFFFFF), np.int32(0x7F800000)
SCALE_MASK, TINY = np.int32(-(1 << 7)), np.int32(0x00800000)
ONE, I32 = np.float32(1), np.int32
ROUND = np.float32(3 << 22)  # added, it leaves the nearest integer, half to even, in the lowest bits
LOWER = np.int32(1 << 20)  # of the bits of a threshold: by about a tenth
GATHER = np.uint64(0x0102040810204080)  # times eight bytes of 0 or 1 it has them as the bits of the highest byte
LINE, AHEAD = 64, 2048  # bytes
MANY = 1 << 20  # values from which threads pay


def _can_cache():
    """Is there a folder for what is compiled? Where all are read-only, each process compiles for itself."""
    try:
        njit(cache=True)(_can_cache)
    except RuntimeError:
        return False
    return True


_compile = functools.partial(njit, nogil=True, cache=_can_cache(), error_model="numpy")


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


@intrinsic
def prefetch(context: Any, array: Any, at_bytes: Any) -> Any:
    """The cache line of an array there will be read soon; it may lie behind the array's end."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        data = builder.bitcast(context.make_array(signature.args[0])(context, builder, arguments[0]).data, pointer)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, near, is_data = (ir.Constant(number, n) for n in (0, 3, 1))
        builder.call(call, [builder.gep(data, [arguments[1]]), read, near, is_data])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


MOST_1, MOST_7 = (np.int32(largest_scale(levels)) for levels in (1, 7))


@_compile(inline="always")
def soon(x, r):
    """What comes AHEAD of row r: processors foresee long stretches only, and rows are two short ones each."""
    size = x.shape[1] * 4
    for i in range(0, size, LINE):
        prefetch(x, r * size + AHEAD + i)


@_compile(inline="always")
def largest(bits):
    """Of a row's values: the bits of the largest magnitude."""
    top = I32(0)
    for i in range(len(bits)):
        top = max(top, I32(bits[i] & ABS))
    return top


@_compile(inline="always")
def rounded(scale, top, most):
    """The bits of a scale, of which 16 remain: 0 for a block of zeros, else a normal number, not beyond `most`."""
    if top == 0:
        return I32(0)
    return min(max(I32((scale + I32(0x8000)) & I32(-0x10000)), TINY), most)


@_compile
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


@_compile
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


@_compile
def encode_16(x, scales, codes, middles):
    """As encode_int4, to the nearest of 16 levels of blocks of largest magnitude 1.

    middles: (15,) int16, between them, in the steps of nf4.FINE, so that sixteen are compared at once.
    """
    found = np.empty(x.shape[1], np.int16)
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


@_compile(fastmath={"reassoc"})
def encode_sign(x, sums, codes):
    """(x: (rows, block) float32, sums: (rows,) float64, of magnitudes, codes: (rows, block / 8)) -> a bad row, or -1."""
    work = np.empty(x.shape[1], np.uint8)
    eights = work.view(np.uint64)
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


@_compile
def pick_largest(x, side, values):
    """The largest magnitudes of each row of x: (rows, block) float32, ascending in place, the first of equal ones.

    values: (rows, keep) float32, keep even; side: (rows, keep * 3 / 2) uint8: their places, two in three bytes. What may be
    among them is found by the threshold of the row before, lowered a little; where that was too high, all may be.
    """
    block, keep = x.shape[1], values.shape[1]
    places, sizes, work = np.empty(block + 1, np.int32), np.empty(block, np.int32), np.empty(block, np.int32)
    guess = I32(0)
    for r in range(x.shape[0]):
        row = x[r]
        bits = row.view(np.int32)
        count = candidates(bits, guess, places)
        if count < keep:
            count = candidates(bits, I32(0), places)
        for i in range(count):
            sizes[i] = work[i] = I32(bits[places[i]] & ABS)
        least = kth_largest(work[:count], keep)
        ties = keep
        for i in range(count):
            ties -= sizes[i] > least
        out = before = 0
        for i in range(count):
            if sizes[i] < least or (sizes[i] == least and ties == 0):
                continue
            ties -= sizes[i] == least
            place = places[i]
            values[r, out] = row[place]
            if out % 2:
                at = out // 2 * 3
                side[r, at] = np.uint8(before)
                side[r, at + 1] = np.uint8(before >> 8 | (place & 15) << 4)
                side[r, at + 2] = np.uint8(place >> 4)
            before = place
            out += 1
        guess = max(I32(0), I32(least - LOWER))
    return -1


@_compile
def add_picked(side, values, out, weight):
    """out: (rows, block) float32 += weight * values: (rows, keep), in their places; see pick_largest."""
    for r in range(out.shape[0]):
        for at in range(0, side.shape[1], 3):
            words = I32(side[r, at]) | I32(side[r, at + 1]) << 8 | I32(side[r, at + 2]) << 16
            out[r, words & 0xFFF] += values[r, at // 3 * 2] * weight
            out[r, words >> 12] += values[r, at // 3 * 2 + 1] * weight
    return -1


@_compile
def check_picked(side):
    """A row whose places do not ascend, or -1."""
    for r in range(side.shape[0]):
        before = -1
        for at in range(0, side.shape[1], 3):
            words = I32(side[r, at]) | I32(side[r, at + 1]) << 8 | I32(side[r, at + 2]) << 16
            first, second = words & 0xFFF, words >> 12
            if first <= before or second <= first:
                return r
            before = second
    return -1


@_compile(inline="always")
def candidates(bits, least, places):
    """How many magnitudes are `least` or more; fills places: (n + 1,). No branch: what is not is written over."""
    count = 0
    for i in range(len(bits)):
        places[count] = i
        count += I32(bits[i] & ABS) >= least
    return count


@_compile
def kth_largest(found, k):
    """Of integers, (n,), which it moves about. Hoare's quickselect."""
    low, high, want = 0, len(found) - 1, len(found) - k
    while low < high:
        pivot = found[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while found[i] < pivot:
                i += 1
            while found[j] > pivot:
                j -= 1
            if i <= j:
                found[i], found[j] = found[j], found[i]
                i += 1
                j -= 1
        if want <= j:
            high = j
        elif want >= i:
            low = i
        else:
            break
    return found[want]


@functools.cache
def decode_8(add: bool) -> Kernel:
    """(scales: (rows,) float32, codes: (rows, block) int8, out: (rows, block) float32, weight): int8."""

    @_compile
    def kernel(scales, codes, out, weight):
        for r in range(out.shape[0]):
            row, code, scale = out[r], codes[r], scales[r] * weight
            for i in range(len(row)):
                value = np.float32(max(code[i], np.int8(-127))) * scale
                row[i] = row[i] + value if add else value
        return -1

    return kernel


@functools.cache
def decode_4(add: bool) -> Kernel:
    """(scales: (rows,) uint16, codes: (rows, block / 2) uint8, out: (rows, block) float32, weight): int4."""

    @_compile
    def kernel(scales, codes, out, weight):
        for r in range(out.shape[0]):
            soon(out, r)
            row, code = out[r], codes[r]
            scale = as_float(I32(I32(scales[r]) << I32(16))) * weight
            for i in range(len(code)):
                both = I32(code[i])
                low = np.float32(max(I32(I32(both & I32(15)) - I32(8)), I32(-7))) * scale
                high = np.float32(max(I32(I32(both >> I32(4)) - I32(8)), I32(-7))) * scale
                row[2 * i] = row[2 * i] + low if add else low
                row[2 * i + 1] = row[2 * i + 1] + high if add else high
        return -1

    return kernel


@functools.cache
def decode_16(add: bool) -> Kernel:
    """As decode_4, with levels: (16,) float32. Each byte stands for two of them: a table has all pairs."""

    @_compile
    def kernel(scales, codes, out, weight, levels):
        pairs, work = np.empty((256, 2), np.float32), np.empty(out.shape[1], np.float32)
        for i in range(256):
            pairs[i, 0], pairs[i, 1] = levels[i & 15], levels[i >> 4]
        table, both = pairs.reshape(-1).view(np.uint64), work.view(np.uint64)
        for r in range(out.shape[0]):
            soon(out, r)
            row, code = out[r], codes[r]
            scale = as_float(I32(I32(scales[r]) << I32(16))) * weight
            for i in range(len(code)):
                both[i] = table[code[i]]
            for i in range(len(row)):
                value = work[i] * scale
                row[i] = row[i] + value if add else value
        return -1

    return kernel


@functools.cache
def decode_sign(add: bool) -> Kernel:
    """(scales: (rows,) uint16, codes: (rows, block / 8) uint8, out: (rows, block) float32, weight)."""

    @_compile
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


def decode(kernels: Callable[[bool], Kernel], rows: list[Any], weight: float | None, *others: Any) -> None:
    """rows: scales, codes, out. out is set to what they stand for; or weight times that is added."""
    rows[1].flags.writeable = False  # as what came from the network is, so that one loop serves both
    spread(kernels(weight is not None), rows, np.float32(1.0 if weight is None else weight), *others)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "plesio-kernel")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a fork has no threads


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
