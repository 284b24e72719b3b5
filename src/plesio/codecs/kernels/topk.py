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
    room: (3 * block + 1,) int32.
    """
    block, keep = x.shape[1], values.shape[1]
    sizes, work, places = room[:block], room[block : 2 * block], room[2 * block :]
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


def pick(rows):
    """rows: x, side, values. See pick_largest."""
    spread(pick_largest, rows, room=3 * rows[0].shape[1] + 1)
