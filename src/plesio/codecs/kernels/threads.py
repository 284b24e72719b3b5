"""Rows of one call, dealt to several threads: what loops that release the GIL gain by."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

Kernel = Callable[..., int]
MANY = 1 << 20  # bytes from which threads pay


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "plesio-kernel")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a fork has no threads


def spread(kernel: Kernel, rows: list[Any], *others: Any, room: int = 0) -> int:
    """kernel(*rows, *others), its rows dealt to as many threads as torch may use. What the first that is not -1 returned.

    rows: arrays whose first extents are the same. room: int32 values that each call has for itself, as its last argument.
    """
    count = len(rows[0])
    threads = min(torch.get_num_threads(), max(array.nbytes for array in rows) // MANY, count)
    own = [[*others, *([np.empty(room, np.int32)] if room else [])] for _ in range(max(threads, 1))]
    if threads <= 1:
        return kernel(*rows, *own[0])
    cuts = [count * n // threads for n in range(threads + 1)]
    calls = [
        _pool(threads).submit(kernel, *(array[begin:end] for array in rows), *given)
        for begin, end, given in zip(cuts[1:-1], cuts[2:], own[1:], strict=True)
    ]
    found = [kernel(*(array[: cuts[1]] for array in rows), *own[0])]
    return next((bad for bad in (*found, *(call.result() for call in calls)) if bad != -1), -1)
