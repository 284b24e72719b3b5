"""What encodes and decodes at the speed of memory, where it is installed: compiled loops on CPUs, Triton's kernels on GPUs.

Each does to the bit what its stage does in torch, which is the reference, and the way of all other devices.
compiling: how the loops are compiled, and their rules. blocks, topk, int2, chance: those of the files of these names one
floor up. sums: of several packets at once. threads: several of them. gpu: Triton's.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

from torch import Tensor

FEW = 1 << 12  # values for which nothing is compiled


def on_cpu(name: str) -> Any:
    """The module of compiled loops of that name; None where numba is missing, which is said once."""
    return importlib.import_module(f"{__name__}.{name}") if _compiles() else None


def worth(name: str, values: Tensor) -> Any:
    """The same; None too for values, of any shape, that lie elsewhere, or are few."""
    return on_cpu(name) if values.device.type == "cpu" and values.numel() >= FEW else None


@functools.cache
def _compiles() -> bool:
    try:
        from plesio.codecs.kernels import compiling  # noqa: F401
    except ImportError as error:
        print(f"plesio: codecs take their slower path, in torch: {error}; pip install numba", file=sys.stderr)
        return False
    return True


@functools.cache
def on_device(kind: str) -> Any:
    """The module of kernels for devices of that type; None for those without, and where Triton is missing: said once."""
    if kind != "cuda":
        return None
    try:
        from plesio.codecs.kernels import gpu
    except ImportError as error:
        print(f"plesio: codecs take their slower path on GPUs, in torch: {error}; pip install triton", file=sys.stderr)
        return None
    return gpu
