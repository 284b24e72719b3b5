"""The compiled loops of int2; see compiling.py for their rules, and codecs/int2.py for what they compute."""

# mypy: ignore-errors
# numba compiles these functions for what they are called with: they have no types of their own.

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from plesio.codecs.int2 import STEPS
from plesio.codecs.kernels.compiling import (
    ABS,
    I32,
    INF,
    MOST_1,
    as_bits,
    as_float,
    compiled,
    largest,
    rounded,
    soon,
)
from plesio.codecs.kernels.threads import spread

F64 = np.float64


@compiled(fastmath={"reassoc"})
def encode_int2(x, counts, pairs, codes, steps):
    """(x: (rows, block) float32, counts: (rows,) float64, of values, pairs: (rows, 2) uint16, codes: (rows, block / 4)).

    Returns a bad row, or -1.
    """
    for r in range(x.shape[0]):
        soon(x, r)
        row, out, count = x[r], codes[r], counts[r]
        bits = row.view(np.int32)
        top = largest(bits)
        if top >= INF:
            return r
        total = F64(0)
        for i in range(len(row)):
            total += F64(abs(row[i]))
        edge = total / count
        low = high = F64(0)
        for _ in range(steps):
            above = below = many = F64(0)
            for i in range(len(row)):
                size = F64(abs(row[i]))
                larger = size > edge
                above += size if larger else F64(0)
                below += F64(0) if larger else size
                many += F64(1) if larger else F64(0)
            low = below / max(count - many, F64(1))
            high = above / many if many > 0 else low
            edge = (high + low) / 2
        first, second = (rounded(as_bits(np.float32(low)), top, MOST_1), rounded(as_bits(np.float32(high)), top, MOST_1))
        pairs[r, 0], pairs[r, 1] = np.uint16(first >> I32(16)), np.uint16(second >> I32(16))
        middle = as_bits((as_float(first) + as_float(second)) / np.float32(2))
        for i in range(len(out)):
            code = I32(0)
            for k in range(4):
                own = bits[4 * i + k]
                plus = I32(I32(~own) >> I32(31)) & I32(2)
                code = I32(code | I32(I32(plus | I32(I32(own & ABS) > middle)) << I32(2 * k)))
            out[i] = np.uint8(code)
    return -1


@compiled()
def decode_int2(pairs, codes, out):
    """(pairs: (rows, 2) float32, codes: (rows, block / 4) uint8, out: (rows, block) float32)."""
    for r in range(out.shape[0]):
        row, code = out[r], codes[r]
        low, high = as_bits(pairs[r, 0]), as_bits(pairs[r, 1])
        for i in range(len(code)):
            four = I32(code[i])
            for k in range(4):
                own = I32(four >> I32(2 * k))
                size = high if own & I32(1) else low
                row[4 * i + k] = as_float(I32(size ^ I32(I32(~own & I32(2)) << I32(30))))
    return -1


def encode(rows: Tensor, count: Tensor, scales: Any) -> Tensor | None:
    """See int2._reference."""
    codes = np.empty((len(rows), rows.shape[1] // 4), np.uint8)
    bad = spread(encode_int2, [rows.contiguous().numpy(), count.numpy(), scales, codes], STEPS)
    return torch.from_numpy(codes).view(-1) if bad == -1 else None


def decode(pairs: Any, codes: Any, out: Any) -> None:
    """out: (rows, block) is set to what they stand for."""
    codes.flags.writeable = False  # as what came from the network is, so that one loop serves both
    spread(decode_int2, [pairs, codes, out])
