"""Adaptive: as many bits as the link has time for, and no fewer than an error budget asks for.

Whoever sends says now and then what the link does (`told`); each tensor is then encoded by the finest rung of a ladder that
is sent within a share of the time there is, or, where its relative error is beyond the budget, by the next finer one that
is not. A decision needs the numbers that it is given, and a sample of the tensor: no clock, no socket.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from plesio.codecs.base import Codec
from plesio.codecs.cast import Bf16
from plesio.codecs.compose import Chain, ErrorFeedback
from plesio.codecs.int2 import Int2
from plesio.codecs.int4 import Int4
from plesio.codecs.int8 import Int8
from plesio.codecs.lossless import Zstd
from plesio.codecs.packets import Packet
from plesio.codecs.reading import decode
from plesio.codecs.roles import Bound
from plesio.codecs.sign import Sign
from plesio.codecs.topk import TopK
from plesio.errors import UserError

LADDER: tuple[Codec, ...] = (Bf16(), Int8(), Int4(), Int2(), Sign(), Chain(TopK(1 / 64), Int2()))  # from fine to coarse
FIRST = 1  # the rung of who knows nothing of the link
SHARE = 0.5  # of the time there is that sending may take
CLIMB = 0.7  # of that, for a finer rung than the last one: so that it does not go up and down
SAMPLE, RUN = 1 << 15, 4096  # values that errors are measured on, in stretches of so many neighbours
BUDGET = 0.4  # with feedback the sign of each value is enough


class Link(NamedTuple):
    """What sending is measured to be. window_s: from one tensor to the next."""

    bytes_per_s: float
    window_s: float


@dataclass(frozen=True)
class Choice:
    """State: what is known of the link, 0 where nothing is, and the rung that was taken last."""

    bytes_per_s: float = 0.0
    window_s: float = 0.0
    rung: int = FIRST


@dataclass(frozen=True, repr=False)
class Adaptive:
    """budget: the relative squared error |x - Q|^2 / |x|^2 that one tensor may have, 0 to 1; feedback makes up for it."""

    budget: float = BUDGET

    def __post_init__(self) -> None:
        if not 0 < self.budget <= 1:
            raise UserError(f"codec 'adaptive' has an error budget between 0 and 1, not {self.budget}")

    def __repr__(self) -> str:
        return "adaptive" if self.budget == BUDGET else f"adaptive({self.budget})"

    @property
    def needs_feedback(self) -> bool:
        """All rungs lose something."""
        return True

    @property
    def varies(self) -> bool:
        """With the rung."""
        return True

    @property
    def by_shape(self) -> bool:
        """No rung does."""
        return False

    def under_feedback(self) -> Codec:
        """See Codec.under_feedback."""
        return self

    def init(self, like: Tensor) -> Choice:
        """See Codec.init."""
        return Choice()

    def encode(self, tensor: Tensor, state: Choice) -> tuple[Packet, Choice]:
        """See Codec.encode."""
        sizes = [codec.wire_bytes(tensor.shape, tensor.dtype) for codec in LADDER]
        sample = sampled(tensor)
        rung = fitting(sizes, state)
        while rung and relative_error(LADDER[rung], sample) > self.budget:
            rung -= 1
        packet, _ = LADDER[rung].encode(tensor, LADDER[rung].init(tensor))
        return packet, replace(state, rung=rung)

    def wire_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """See Codec.wire_bytes."""
        return max(codec.wire_bytes(shape, dtype) for codec in LADDER)


def fitting(sizes_bytes: Sequence[int], state: Choice) -> int:
    """The first of the sizes, from the largest to the smallest, that the link has time for; else the last."""
    if not state.bytes_per_s:
        return state.rung
    room = state.bytes_per_s * state.window_s * SHARE
    for rung, size in enumerate(sizes_bytes):
        if size <= (room if rung >= state.rung else CLIMB * room):
            return rung
    return len(sizes_bytes) - 1


def sampled(tensor: Tensor) -> Tensor:
    """(k,): some stretches of it, from all over."""
    flat = tensor.detach().reshape(-1)
    if len(flat) <= SAMPLE:
        return flat
    starts = range(0, len(flat) - RUN + 1, (len(flat) - RUN) // (SAMPLE // RUN - 1))
    return torch.cat([flat[start : start + RUN] for start in starts])


def relative_error(codec: Codec, sample: Tensor) -> float:
    """|x - Q|^2 / |x|^2 of a sample: (k,); 0 of zeros."""
    back = decode(codec.encode(sample, codec.init(sample))[0]).double()
    exact = sample.double().cpu()
    energy = float(exact.square().sum())
    return float((back - exact).square().sum()) / energy if energy else 0.0


def told(codec: Codec, state: Any, link: Link) -> Any:
    """The codec's state, once it knows of the link; what does not adapt keeps its own."""
    if isinstance(codec, ErrorFeedback):
        return replace(state, inner=told(codec.codec, state.inner, link))
    if isinstance(codec, Zstd):
        return told(codec.codec, state, link)
    if isinstance(codec, Bound):
        return tuple(told(own, each, link) for (own, _), each in zip(codec.parts, state, strict=True))
    return replace(state, **link._asdict()) if isinstance(codec, Adaptive) else state
