"""The compiled loops of top-k; see compiling.py for their rules, and codecs/topk.py for what they compute."""

# mypy: ignore-errors
# numba compiles these functions for what they are called with: they have no types of their own.

from __future__ import annotations

import numpy as np

from plesio.codecs.kernels.compiling import ABS, I32, compiled
from plesio.codecs.kernels.threads import spread

LOWER = np.int32(1 << 20)  # of the bits of a threshold: by about a tenth


@compiled()
def pick_largest(x, side, values, room):
    """The largest magnitudes of each row of x: (rows, block) float32, ascending in place, the first of equal ones.

    values: (rows, keep) float32, keep even; side: (rows, keep * 3 / 2) uint8: their places, two in three bytes. What may be
    among them is found by the threshold of the row before, lowered a little; where that was too high, all may be.
    room: (3 * block + 1,) int32. What depends on values branches nowhere: it could not be foreseen.
    """
    block, keep = x.shape[1], values.shape[1]
    sizes, kept, places = room[:block], room[block : 2 * block], room[2 * block :]
    guess = I32(0)
    for r in range(x.shape[0]):
        row = x[r]
        bits = row.view(np.int32)
        count, least = candidates(bits, guess, places), guess
        if count < keep:
            count, least = candidates(bits, I32(0), places), I32(0)
        top = I32(0)
        for i in range(count):
            sizes[i] = I32(bits[places[i]] & ABS)
            top = max(top, sizes[i])
        least = kth_largest(sizes[:count], keep, least, top)
        ties, found = I32(keep), 0
        for i in range(count):
            ties = I32(ties - I32(sizes[i] > least))
        for i in range(count):
            kept[found] = places[i]
            equal = I32(I32(sizes[i] == least) & I32(ties > 0))
            ties = I32(ties - equal)
            found += I32(sizes[i] > least) | equal
        for i in range(keep // 2):
            first, second = kept[2 * i], kept[2 * i + 1]
            values[r, 2 * i], values[r, 2 * i + 1] = row[first], row[second]
            side[r, 3 * i] = np.uint8(first)
            side[r, 3 * i + 1] = np.uint8(first >> 8 | (second & 15) << 4)
            side[r, 3 * i + 2] = np.uint8(second >> 4)
        guess = max(I32(0), I32(least - LOWER))
    return -1


@compiled()
def add_picked(side, values, out, weight):
    """out: (rows, block) float32 += weight * values: (rows, keep), in their places; see pick_largest."""
    for r in range(out.shape[0]):
        for at in range(0, side.shape[1], 3):
            words = I32(side[r, at]) | I32(side[r, at + 1]) << 8 | I32(side[r, at + 2]) << 16
            out[r, words & 0xFFF] += values[r, at // 3 * 2] * weight
            out[r, words >> 12] += values[r, at // 3 * 2 + 1] * weight
    return -1


@compiled()
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


@compiled(inline="always")
def candidates(bits, least, places):
    """How many magnitudes are `least` or more; fills places: (n + 1,). No branch: what is not is written over."""
    count = 0
    for i in range(len(bits)):
        places[count] = i
        count += I32(bits[i] & ABS) >= least
    return count


@compiled()
def kth_largest(sizes, k, low, high):
    """Of sizes, (n,) int32, from low to high, of which k are low or more. They are counted again and again: that is fast."""
    while low < high:
        middle, many = I32(high - I32(I32(high - low) >> I32(1))), I32(0)
        for i in range(len(sizes)):
            many = I32(many + I32(sizes[i] >= middle))
        if many >= k:
            low = middle
        else:
            high = I32(middle - I32(1))
    return low


def pick(rows):
    """rows: x, side, values. See pick_largest."""
    spread(pick_largest, rows, room=3 * rows[0].shape[1] + 1)
