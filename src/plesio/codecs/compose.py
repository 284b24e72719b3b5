"""Codecs made of codecs: a chain, and feedback of what a codec lost. Neither is known to the receiver.

State is explicit: `init` makes it, `encode` returns the next, and nothing is changed in place, so a push that
never left can be encoded again from the old state. They do not checkpoint it: the learner does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plesio.codecs.base import Codec, Stage, encode
from plesio.codecs.packets import Packet, check_order, completed, packet_bytes
from plesio.codecs.reading import accumulate
from plesio.errors import CodecError, UserError


@dataclass(frozen=True, init=False, repr=False)
class Chain:
    """Each link encodes what the one before hands on: the values it picked, or what it would be read as.

    Links are registered codecs. ErrorFeedback is no link (there it would do nothing): it wraps the chain.
    """

    links: tuple[Stage, ...]

    def __init__(self, *links: Stage) -> None:
        wrong = [link for link in links if not isinstance(link, Stage)]
        if wrong or not links:
            raise UserError(f"a chain links registered codecs, not {wrong}; feedback goes around: ef(a+b)")
        object.__setattr__(self, "links", tuple(completed(links)))
        check_order(self.links)

    def __repr__(self) -> str:
        return "+".join(map(repr, self.links))

    @property
    def needs_feedback(self) -> bool:
        """See Codec.needs_feedback."""
        return any(link.needs_feedback for link in self.links)

    @property
    def varies(self) -> bool:
        """No link does."""
        return False

    @property
    def by_shape(self) -> bool:
        """See Codec.by_shape."""
        return any(link.by_shape for link in self.links)

    def under_feedback(self) -> Chain:
        """See Codec.under_feedback."""
        return Chain(*(link.under_feedback() for link in self.links))

    def init(self, like: Tensor) -> tuple[Any, ...]:
        """One state a link."""
        states = []
        for link in self.links:
            states.append(link.init(like))
            like = like.new_zeros(()).expand(link.inner_shape(tuple(like.shape)))
        return tuple(states)

    def encode(self, tensor: Tensor, state: tuple[Any, ...]) -> tuple[Packet, tuple[Any, ...]]:
        """See Codec.encode. state: one a link."""
        return encode(self.links, tensor, state)

    def wire_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """See Codec.wire_bytes."""
        return packet_bytes(self.links, shape, dtype)


@dataclass(frozen=True)
class FeedbackState:
    """residual: the tensor's shape, float32 or wider: what was not sent. inner: the wrapped codec's state."""

    residual: Tensor
    inner: Any


@dataclass(frozen=True, repr=False)
class ErrorFeedback:
    """Sends codec(tensor + decay * residual), keeps what that lost: sum(sent) + residual = sum(inputs) (I5).

    With decay b < 1: residual_T + sum b^(T-t) sent_t = sum b^(T-t) input_t. decay: 0 to 1.
    The packet is the wrapped codec's. Source: Seide et al. 2014; Karimireddy et al. 2019 (1901.09847).
    """

    codec: Codec
    decay: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "codec", self.codec.under_feedback())
        if not 0 <= self.decay <= 1:
            raise UserError(f"the decay of error feedback is between 0 and 1, not {self.decay}")

    def __repr__(self) -> str:
        return f"ef({self.codec!r})" if self.decay == 1 else f"ef({self.codec!r}, {self.decay})"

    @property
    def needs_feedback(self) -> bool:
        """It has it."""
        return False

    @property
    def varies(self) -> bool:
        """See Codec.varies."""
        return self.codec.varies

    @property
    def by_shape(self) -> bool:
        """See Codec.by_shape."""
        return self.codec.by_shape

    def under_feedback(self) -> Codec:
        """What it has inside is that already."""
        return self

    def init(self, like: Tensor) -> FeedbackState:
        """A residual of zeros. like: any shape; half precision gets a float32 residual."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        return FeedbackState(torch.zeros_like(like, dtype=dtype, requires_grad=False), self.codec.init(like))

    def encode(self, tensor: Tensor, state: FeedbackState) -> tuple[Packet, FeedbackState]:
        """See Codec.encode. CodecError also for another shape than init's, and NaN and Inf: they would stay.

        state: of the step before; the next one holds a new residual.
        """
        if tensor.shape != state.residual.shape:
            was, now = tuple(state.residual.shape), tuple(tensor.shape)
            raise CodecError(f"codec {self!r} has a residual of shape {was} and got a tensor of shape {now}")
        carried = torch.add(tensor.detach(), state.residual, alpha=self.decay)
        packet, inner = self.codec.encode(carried.to(tensor.dtype), state.inner)
        return packet, FeedbackState(lost(self, packet, carried), inner)

    def wire_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """See Codec.wire_bytes."""
        return self.codec.wire_bytes(shape, dtype)


def lost(codec: Codec, packet: Packet, tensor: Tensor) -> Tensor:
    """What the codec's packet lost of the tensor, which becomes it. Raises CodecError for NaN and Inf."""
    accumulate(packet, tensor, -1.0)
    if not math.isfinite(tensor.sum(dtype=torch.float64)):
        raise CodecError(f"codec {codec!r} cannot carry NaN or Inf; check the loss")
    return tensor


def with_feedback(codec: Codec) -> Codec:
    """The codec, wrapped in ErrorFeedback when it loses something that nothing keeps yet."""
    return ErrorFeedback(codec) if codec.needs_feedback else codec


def without_feedback(codec: Codec) -> Codec:
    """What is wrapped, for who keeps by himself what it loses; another codec as it is."""
    return without_feedback(codec.codec) if isinstance(codec, ErrorFeedback) else codec
