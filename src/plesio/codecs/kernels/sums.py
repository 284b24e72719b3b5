"""Compiled loops that add several packets in one go: sums stay in registers where adding one by one writes them each time.

Each value is added to as one by one, in the same order, so that the sums are the same to the bit.
"""

# mypy: ignore-errors
# numba compiles these functions for what they are called with: they have no types of their own.

from __future__ import annotations

from typing import Any

import numpy as np

from plesio.codecs.kernels.compiling import compiled

LEAST = np.float32(-127)  # see Int8.levels


@compiled()
def add_four_8(scales_0, codes_0, scales_1, codes_1, scales_2, codes_2, scales_3, codes_3, out, weights):
    """Of int8. scales: (rows,) float32, codes: (rows, block) int8, out: (rows, block) float32, weights: (4,) float32."""
    for r in range(out.shape[0]):
        row, code_0, code_1, code_2, code_3 = out[r], codes_0[r], codes_1[r], codes_2[r], codes_3[r]
        scale_0, scale_1 = scales_0[r] * weights[0], scales_1[r] * weights[1]
        scale_2, scale_3 = scales_2[r] * weights[2], scales_3[r] * weights[3]
        for i in range(len(row)):
            level_0, level_1 = np.float32(code_0[i]), np.float32(code_1[i])
            level_2, level_3 = np.float32(code_2[i]), np.float32(code_3[i])
            value = row[i] + (level_0 if level_0 > LEAST else LEAST) * scale_0
            value += (level_1 if level_1 > LEAST else LEAST) * scale_1
            value += (level_2 if level_2 > LEAST else LEAST) * scale_2
            row[i] = value + (level_3 if level_3 > LEAST else LEAST) * scale_3


def add_fours_8(*rows_and_weights: Any) -> int:
    """Scales and codes of a multiple of four packets, out, and their weights."""
    *rows, out, weights = rows_and_weights
    for n in range(0, len(rows), 8):
        add_four_8(*rows[n : n + 8], out, weights[n // 2 : n // 2 + 4])
    return -1
