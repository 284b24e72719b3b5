"""The receiver's side: packets to tensors, by what they say of themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from plesio.codecs.base import memory
from plesio.codecs.packets import Packet, Part, dtype_of, opened
from plesio.errors import CodecError


def decode(packet: Packet, out: Tensor | None = None) -> Tensor:
    """A CPU tensor of the packet's shape and dtype, or `out`, contiguous, of any device: new memory costs time.

    Raises CodecError when the packet is inconsistent, or not of the shape and dtype of `out`.
    """
    parts, dtype = opened(packet), dtype_of(packet)  # checks before anything is allocated
    if out is not None and (tuple(out.shape), out.dtype) != (packet.shape, dtype):
        raise CodecError(f"a packet of {dtype} {packet.shape} is not decoded into {out.dtype} {tuple(out.shape)}")
    return decoded(parts, dtype, out)


def accumulate(packet: Packet, into: Tensor, weight: float) -> None:
    """into += weight * decode(packet), in chunks. into: the packet's shape, any float dtype and device.

    Raises CodecError for another shape or an inconsistent packet; `into` is then unchanged.
    """
    if tuple(into.shape) != packet.shape:
        raise CodecError(f"a packet of shape {packet.shape} cannot be added into shape {tuple(into.shape)}")
    if not into.is_contiguous():
        into.detach().add_(decode(packet).to(into.device), alpha=weight)
        return
    parts, dtype = opened(packet), dtype_of(packet)
    lead = first_that_leads(parts)
    if lead is None:
        last = parts[-1]
        last.stage.add_into(last.data, into.detach().view(-1), weight, dtype)
        return
    part = parts[lead]
    inner = decoded(parts[lead + 1 :], dtype)
    part.stage.add(part.data, inner, into.detach(), weight)


def is_finite(packet: Packet) -> bool:
    """Does it decode to finite values only? Raises CodecError when the packet is inconsistent."""
    parts = opened(packet)
    if any(part.stage.mixes for part in parts):
        return bool(decoded(parts, dtype_of(packet)).isfinite().all())
    last = parts[-1]
    return last.stage.is_finite(last.data, last.numel, dtype_of(packet))


def decoded(parts: list[Part], dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """What was given to the first of these stages."""
    lead = first_that_leads(parts)
    if out is None:
        out = memory(parts[0].numel * dtype.itemsize).view(dtype).view(parts[0].shape)
    if lead is None:
        last = parts[-1]
        last.stage.read_into(last.data, out.view(-1))
        return out
    part = parts[lead]
    inner = decoded(parts[lead + 1 :], dtype)
    part.stage.add(part.data, inner, out.zero_(), 1.0)
    return out


def first_that_leads(parts: list[Part]) -> int | None:
    """The first stage before the last whose values belong somewhere else."""
    return next((at for at, part in enumerate(parts[:-1]) if not part.stage.plain), None)
