"""Several packets as one weighted sum, by pieces that stay in cache: what a server does with a round's pushes.

Each packet is read once, and no sum of the tensor's size is made, unless one of the packets has to be read as a whole
(randomk, powersgd, a codec of another package). What becomes of the sums is the caller's affair.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from plesio.codecs.base import Adder, memory
from plesio.codecs.packets import Packet, Part, dtype_of, opened
from plesio.codecs.reading import accumulate, decoded, first_that_leads
from plesio.errors import CodecError

PIECE = 1 << 19  # values a thread: in smaller pieces Python shows, larger ones leave the cache
ALIGNED = 64  # values: in pieces of multiples torch's vector loops give each value what they give it in the whole


def merged(
    packets: Sequence[Packet], weights: Sequence[float], into: Tensor | None = None
) -> Iterator[tuple[int, Tensor]]:
    """(start, sums: (k,)) in order: sum(weight * decode(packet)), flat, added in the order of the packets.

    Sums are of sums_dtype. They last until the next step; of `into`, (numel,) of that dtype, they are pieces.
    Raises CodecError, before the first piece, when packets differ in shape or one cannot be read.
    """
    if any(packet.shape != packets[0].shape for packet in packets):
        raise CodecError(f"packets of shapes {sorted({packet.shape for packet in packets})} cannot be merged")
    parts = [opened(packet) for packet in packets]
    numel, step = math.prod(packets[0].shape), _step(parts)
    if step is None:
        into = _whole(packets, weights, into)
    adders = [] if step is None else list(_adders(packets, parts, weights))
    step = step or PIECE
    room = torch.empty(min(step, numel), dtype=sums_dtype(packets)) if into is None else into
    for start in range(0, numel, step):
        piece = room[: numel - start] if into is None else into[start : start + step]
        if adders:
            piece.zero_()
        for add in adders:
            add(start, piece)
        yield start, piece


def sums_dtype(packets: Sequence[Packet]) -> torch.dtype:
    """float64 where one of them is, else float32: 16 bits are too few to add in."""
    return functools.reduce(torch.promote_types, map(dtype_of, packets), torch.float32)


def _step(packets: Sequence[list[Part]]) -> int | None:
    """Values a piece, which all can begin at; None: one of them is read as a whole."""
    unit = math.lcm(ALIGNED, *(parts[_decisive(parts)].stage.unit for parts in packets))
    return PIECE * torch.get_num_threads() // unit * unit or None if unit else None


def _decisive(parts: list[Part]) -> int:
    """The first whose values belong somewhere else, or the last: what is before it has left nothing."""
    lead = first_that_leads(parts)
    return len(parts) - 1 if lead is None else lead


def _whole(packets: Sequence[Packet], weights: Sequence[float], into: Tensor | None) -> Tensor:
    """(numel,): the sum of all."""
    if into is None:
        kind = sums_dtype(packets)
        into = memory(math.prod(packets[0].shape) * kind.itemsize).view(kind)
    total = into.zero_().view(packets[0].shape)
    for packet, weight in zip(packets, weights, strict=True):
        accumulate(packet, total, weight)
    return into


def _adders(packets: Sequence[Packet], opened_packets: Sequence[list[Part]], weights: Sequence[float]) -> Iterator[Adder]:
    """One for each packet, or for several neighbours that are read alike."""
    all_of_it = zip(packets, opened_packets, weights, strict=True)
    for _, alike in itertools.groupby(all_of_it, lambda one: (one[0].stages, one[0].dtype)):
        group = list(alike)
        packet, parts, _ = group[0]
        at, dtype = _decisive(parts), dtype_of(packet)
        if at == len(parts) - 1:
            payloads = [own[at].data for _, own, _ in group]
            factors = [weight for *_, weight in group]
            yield parts[at].stage.adder(payloads, factors, parts[at].numel, dtype, sums_dtype(packets))
        else:
            yield from (_adder_of_picks(packet, parts, at, weight) for packet, parts, weight in group)


def _adder_of_picks(packet: Packet, parts: list[Part], at: int, weight: float) -> Adder:
    """What follows the picking stage is small: it is decoded as a whole."""
    inner = decoded(parts[at + 1 :], dtype_of(packet))
    side = parts[at].data
    return lambda start, piece: parts[at].stage.add_piece(side, inner, start, piece, weight)
