"""The compiled loops of stochastic rounding: to the bit what chance.Levels does in torch, with noise.Noise."""

# mypy: ignore-errors
# numba compiles these functions for what they are called with: they have no types of their own.

from __future__ import annotations

import numpy as np

from plesio.codecs import noise
from plesio.codecs.kernels.compiling import I32, ROUND, compiled, largest
from plesio.codecs.kernels.threads import spread

U32 = np.uint32
STEP, FIRST, SECOND = U32(noise.STEP), U32(noise.FIRST), U32(noise.SECOND)
FINE = np.float32(noise.FINE)


@compiled(inline="always")
def drawn(start, place, bits, twist):
    """What noise.Noise.drawn finds for a value of these bits, at that place of a row."""
    hashed = U32(U32(U32(start) + U32(U32(place) * STEP)) ^ U32(bits))
    hashed = U32(hashed ^ U32(hashed >> U32(16)))
    hashed = U32(U32(hashed * FIRST) ^ twist)
    hashed = U32(hashed ^ U32(hashed >> U32(15)))
    hashed = U32(hashed * SECOND)
    hashed = U32(hashed ^ U32(hashed >> U32(16)))
    return np.float32(I32(hashed >> U32(8))) * FINE


@compiled(inline="always")
def pack(found, out, bits):
    """The codes of a row, (block,) int32, `bits` each, into out: (block * bits / 8,) uint8."""
    if bits == 8:
        for i in range(len(out)):
            out[i] = np.uint8(found[i])
    elif bits == 4:
        for i in range(len(out)):
            out[i] = np.uint8(I32(found[2 * i] & I32(15)) | I32(found[2 * i + 1] << I32(4)))
    elif bits == 2:
        for i in range(len(out)):
            low = I32(found[4 * i] | I32(found[4 * i + 1] << I32(2)))
            out[i] = np.uint8(I32(low | I32(I32(found[4 * i + 2] << I32(4)) | I32(found[4 * i + 3] << I32(6)))))
    else:
        for i in range(len(out)):
            code = I32(0)
            for k in range(8):
                code = I32(code | I32(found[8 * i + k] << I32(k)))
            out[i] = np.uint8(code)


@compiled()
def tops(x, found):
    """found: (rows,) int32: the bits of the largest magnitude of each row of x: (rows, block) float32."""
    for r in range(x.shape[0]):
        found[r] = largest(x[r].view(np.int32))
    return -1


@compiled(fastmath={"reassoc"})
def sums(x, found):
    """found: (rows,) float64: of the magnitudes of each row of x: (rows, block) float32."""
    for r in range(x.shape[0]):
        row, total = x[r], np.float64(0)
        for i in range(len(row)):
            total += np.float64(abs(row[i]))
        found[r] = total
    return -1


@compiled()
def draw_steps(x, starts, scales, out, twist, bits, reach, zero, found):
    """Levels are the whole numbers from -reach to reach. zero: the code of 0.

    x: (rows, block) float32, starts: (rows,) int32, scales: (rows,) float32, out: (rows, block * bits / 8) uint8.
    found: (block,) int32, room for codes.
    """
    for r in range(x.shape[0]):
        row, scale, start = x[r], scales[r], starts[r]
        raw = row.view(np.int32)
        for i in range(len(row)):
            value = min(max(row[i] / scale, -reach), reach)
            low = np.float32(np.float32(value + ROUND) - ROUND)
            low = low - np.float32(low > value)
            up = I32(drawn(start, i, raw[i], twist) < value - low)
            found[i] = I32(I32(I32(low) + up) + zero)
        pack(found, out[r], bits)
    return -1


@compiled()
def draw_levels(x, starts, scales, out, twist, bits, reach, levels, gaps, codes, room):
    """Levels are any, (2^bits,) float32, ascending, and codes those of each, (2^bits,) int32. See draw_steps.

    gaps: (2^bits - 1,), between levels. room: (3 * block,) int32.
    """
    block, last = x.shape[1], len(levels) - 1
    found, steps, wide = room[:block], room[block : 2 * block].view(np.float32), room[2 * block :].view(np.float32)
    for r in range(x.shape[0]):
        row, scale, start = x[r], scales[r], starts[r]
        raw = row.view(np.int32)
        for i in range(len(row)):
            steps[i] = min(max(row[i] / scale, -reach), reach)
            found[i] = I32(0)
        for j in range(1, last):
            level = levels[j]
            for i in range(len(row)):
                found[i] = I32(found[i] + I32(steps[i] >= level))
        for i in range(len(row)):
            below = np.uint32(found[i])
            steps[i] = steps[i] - levels[below]
            wide[i] = gaps[below]
        for i in range(len(row)):
            found[i] = I32(found[i] + I32(drawn(start, i, raw[i], twist) * wide[i] < steps[i]))
        for i in range(len(row)):
            found[i] = codes[np.uint32(found[i])]
        pack(found, out[r], bits)
    return -1


@compiled()
def draw_pairs(x, starts, scales, out, twist, found):
    """Levels are int2's: scales: (rows, 2) float32, a smaller and a larger magnitude. See draw_steps, chance.PAIR_CODES."""
    for r in range(x.shape[0]):
        row, small, large, start = x[r], scales[r, 0], scales[r, 1], starts[r]
        raw = row.view(np.int32)
        for i in range(len(row)):
            inside, above = row[i] >= -small, row[i] >= small
            low = small if above else (-small if inside else -large)
            gap = np.float32(small + small) if inside and not above else np.float32(large - small)
            up = I32(drawn(start, i, raw[i], twist) * gap < np.float32(row[i] - low))
            level = I32(I32(I32(inside) + I32(above)) + up)
            found[i] = level if level > 1 else I32(I32(1) - level)
        pack(found, out[r], 2)
    return -1


def draw(rows, twist, bits, levels, codes):
    """rows: x, starts, scales, out, as draw_steps takes them. levels: (k,) ascending, codes: (k,) uint8, of each."""
    reach, block = np.float32(min(-levels[0], levels[-1])), rows[0].shape[1]
    zero = codes_of_whole_numbers(levels, codes, bits)
    if zero is not None:
        spread(draw_steps, rows, U32(twist), bits, reach, I32(zero), room=block)
    else:
        spread(
            draw_levels, rows, U32(twist), bits, reach, levels, np.diff(levels), codes.astype(np.int32), room=3 * block
        )


def draw_two(rows, twist):
    """The same of int2. See draw_pairs."""
    spread(draw_pairs, rows, U32(twist), room=rows[0].shape[1])


def codes_of_whole_numbers(levels, codes, bits):
    """What is added to a level to have its code, where all levels are neighbouring whole numbers; None where not.

    The lowest level may have two codes, of which the second is taken.
    """
    gaps = np.diff(levels)
    if gaps[0] == 0:
        levels, codes, gaps = levels[1:], codes[1:], gaps[1:]
    added = (codes.astype(np.int32) - levels.astype(np.int32)) & ((1 << bits) - 1)
    whole = levels[0] == np.round(levels[0]) and bool((gaps == 1).all())
    return added[0] if whole and bool((added == added[0]).all()) else None
