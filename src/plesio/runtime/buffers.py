"""A model's buffers (batch-norm statistics and the like): not trained, and yet a part of what it has learned.

The floating ones travel beside each push as they are, uncoded, and a version carries their weighted mean: no
outer optimizer touches them. The others (counters, masks) stay local, and are part of a state only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plesio.errors import CodecError

PREFIX = "buffer."
Floats = NDArray[np.float32]


def persistent(model: torch.nn.Module) -> dict[str, Tensor]:
    """By name; those only that belong to the model's state_dict."""
    kept = model.state_dict().keys()
    return {name: buffer for name, buffer in sorted(model.named_buffers()) if name in kept}


def describe(buffers: Mapping[str, Tensor]) -> str:
    """Names, shapes and dtypes, for the model's signature; '' for none."""
    return ";".join(f"{n}:{tuple(b.shape)}:{b.dtype}" for n, b in sorted(buffers.items()))


def pack(buffers: Mapping[str, Tensor]) -> bytes:
    """The floating ones, in the order of their names, as float32."""
    flat = [b.detach().cpu().to(torch.float32).flatten() for b in _floating(buffers)]
    return torch.cat(flat).numpy().tobytes() if flat else b""


def unpack(data: bytes, into: Mapping[str, Tensor]) -> None:
    """Copies what `pack` made into these. Raises CodecError when it is of others."""
    flat = read(data)
    targets = _floating(into)
    if len(flat) != sum(b.numel() for b in targets):
        raise CodecError(f"{len(flat)} buffer values for a model of {sum(b.numel() for b in targets)}")
    at = 0
    for buffer in targets:
        part = torch.from_numpy(flat[at : at + buffer.numel()].copy())
        buffer.detach().copy_(part.view(buffer.shape))
        at += buffer.numel()


def read(data: bytes) -> Floats:
    """The values. Raises CodecError when they are not finite float32."""
    if len(data) % 4:
        raise CodecError(f"{len(data)} bytes are no float32 buffers")
    values: Floats = np.frombuffer(data, np.float32)
    if not np.isfinite(values).all():
        raise CodecError("a buffer holds NaN or Inf")
    return values


def mean(parts: Sequence[bytes], weights: Sequence[float]) -> bytes:
    """The weighted mean of those that sent any; b'' when nobody did."""
    known = [(read(p), w) for p, w in zip(parts, weights, strict=True) if p]
    whole = sum(w for _, w in known)
    if not known or whole <= 0:
        return b""
    total = np.zeros_like(known[0][0], dtype=np.float64)
    for values, weight in known:
        total += weight / whole * values
    return total.astype(np.float32).tobytes()


def _floating(buffers: Mapping[str, Tensor]) -> list[Tensor]:
    return [b for _, b in sorted(buffers.items()) if b.is_floating_point()]
