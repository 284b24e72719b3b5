"""The contract of codecs: what everything that encodes does, and what one registered stage of a chain does.

Work goes in chunks of 256k values through reused buffers, which stay in cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from plesio.codecs.packets import VERSION, Packet, Payload, Shape, Stamp, completed, layout, name_of, packet_bytes

CHUNK = 1 << 18  # values a step
Adder = Callable[[int, Tensor], None]  # (start, piece): adds to a piece, (k,), of a tensor, from that value on


class Codec(Protocol):
    """Tensors to packets, with explicit state. Codecs are frozen; `repr` gives what `parse` reads."""

    @property
    def needs_feedback(self) -> bool:
        """Does it lose something that ErrorFeedback would keep?"""

    @property
    def varies(self) -> bool:
        """Does the length of its packets depend on the values?"""

    @property
    def by_shape(self) -> bool:
        """Does it make of a matrix something else than of its values in a row?"""

    def under_feedback(self) -> Codec:
        """The codec to use where feedback keeps what it loses: that must not be more than it is given, or it would grow."""

    def init(self, like: Tensor) -> Any:
        """The state before the first tensor. like: any shape. None for a stateless codec.

        Tensors, whole numbers and fractions, in tuples and frozen dataclasses; later states are of the same form, so that
        states.load_state knows what it reads.
        """

    def encode(self, tensor: Tensor, state: Any) -> tuple[Packet, Any]:
        """The packet and the next state; tensor (any shape, strides, device) and state stay as they were.

        Raises CodecError for a dtype outside FLOATS and for values that the codec cannot carry.
        """

    def wire_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """The exact length of `encode(...)[0].to_bytes()` for that shape and dtype; of one that `varies`, the most."""


class Stage:
    """One registered link of a chain, and a codec by itself.

    A stage that `can_end` a chain makes bytes of values: it has payload_bytes, write and read. One that `can_lead` hands
    on a tensor for the next to encode: it has side_bytes, inner_shape and split, and `add` unless it is `plain`: what is
    read behind a plain one is already what it stood for. Subclasses are frozen dataclasses; their stamp, ints, is what a
    packet carries of them; one out of range raises UserError.
    """

    name: ClassVar[str]  # as registered
    needs_feedback: ClassVar[bool] = True
    always_finite: ClassVar[bool] = False  # does `check` refuse what would be read as NaN or Inf?
    can_end: ClassVar[bool] = True
    can_lead: ClassVar[bool] = True
    plain: ClassVar[bool] = True
    mixes: ClassVar[bool] = False  # may finite values that it handed on be read as others that are not?
    by_shape: ClassVar[bool] = False  # does it make of a matrix something else than of its values in a row?
    varies: ClassVar[bool] = False  # does the length depend on the values? See pieces.py, the only one

    @property
    def unit(self) -> int:
        """Pieces that may be read by themselves begin at multiples of so many values. 0: it is read as a whole."""
        return 0

    @property
    def stamp(self) -> Stamp:
        """What a packet says of this stage."""
        return self.name, astuple(self)  # type: ignore[call-overload]

    @classmethod
    def from_stamp(cls, *arguments: int) -> Self:
        """The stage of that stamp. Raises TypeError or UserError."""
        return cls(*arguments)

    def __repr__(self) -> str:
        arguments = ", ".join(map(str, self.stamp[1]))
        return self.name if self == type(self)() else f"{self.name}({arguments})"

    # -- as a codec

    def init(self, like: Tensor) -> Any:
        """None: stateless. like: any shape."""
        return None

    def encode(self, tensor: Tensor, state: Any = None) -> tuple[Packet, Any]:
        """See Codec.encode."""
        stages = completed([self])
        packet, after = encode(stages, tensor, (state, *([None] * (len(stages) - 1))))
        return packet, after[0]

    def wire_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """See Codec.wire_bytes."""
        return packet_bytes(completed([self]), shape, dtype)

    def under_feedback(self) -> Stage:
        """See Codec.under_feedback."""
        return self

    # -- as the end of a chain

    def payload_bytes(self, numel: int, dtype: torch.dtype) -> int:
        """The exact length of the payload for so many values of that dtype."""
        raise NotImplementedError(f"{self!r} ends no chain")

    def write(self, flat: Tensor, payload: Tensor, state: Any) -> Any:
        """Fills payload: (payload_bytes,) uint8, from flat: (numel,). The next state. CodecError for what will not go."""
        raise NotImplementedError(f"{self!r} ends no chain")

    def read(self, payload: Payload, numel: int, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        """(start, values: (k,) of dtype) in order; values last until the next step. The length is right."""
        raise NotImplementedError(f"{self!r} ends no chain")

    def read_into(self, payload: Payload, out: Tensor) -> None:
        """Fills out: (numel,), contiguous."""
        for start, values in self.read(payload, out.numel(), out.dtype):
            out[start : start + len(values)] = values

    def add_into(self, payload: Payload, into: Tensor, weight: float, dtype: torch.dtype) -> None:
        """into += weight * what is read, as dtype. into: (numel,), contiguous, any float dtype and device."""
        for start, values in self.read(payload, into.numel(), dtype):
            into[start : start + len(values)].add_(values.to(into.device), alpha=weight)

    def adder(
        self, payloads: Sequence[Payload], weights: Sequence[float], numel: int, dtype: torch.dtype, into: torch.dtype
    ) -> Adder:
        """What adds weight * what is read, as dtype, of one payload after the other, to pieces of dtype `into` on the CPU.

        For a stage that has a unit.
        """
        raise NotImplementedError(f"{self!r} is read as a whole")

    def check(self, payload: Payload, shape: Shape, dtype: torch.dtype) -> None:
        """Raises CodecError when a payload, or side, of the right length cannot be read. By default all can."""
        return None

    def is_finite(self, payload: Payload, numel: int, dtype: torch.dtype) -> bool:
        """Is all that is read?"""
        return self.always_finite or all(bool(values.isfinite().all()) for _, values in self.read(payload, numel, dtype))

    def unpacked(self, payload: Payload, shape: Shape, dtype: torch.dtype) -> Payload:
        """Of one that `varies`: the payload as it is read, checked. Raises CodecError."""
        raise NotImplementedError(f"{self!r} does not vary")

    # -- before others in a chain

    def side_bytes(self, shape: Shape) -> int:
        """The length of what it keeps beside the values that it hands on."""
        return 0

    def inner_shape(self, shape: Shape) -> Shape:
        """Of what it hands on."""
        return shape

    def split(self, tensor: Tensor, side: Tensor, state: Any) -> tuple[Tensor, Any]:
        """(what the next stage encodes: inner_shape, the next state). Fills side: (side_bytes,) uint8.

        By default what it would be read as: values that are rounded once more.
        """
        payload = torch.empty(self.payload_bytes(tensor.numel(), tensor.dtype), dtype=torch.uint8)
        after = self.write(tensor.detach().reshape(-1), payload, state)
        rounded = torch.empty(tensor.shape, dtype=tensor.dtype)
        self.read_into(payload.numpy().data, rounded.view(-1))
        return rounded, after

    def add(self, side: Payload, inner: Tensor, into: Tensor, weight: float) -> None:
        """into += weight * the tensor that inner, (inner_shape), and side stand for. into: its shape, contiguous."""
        raise NotImplementedError(f"{self!r} is plain")

    def add_piece(self, side: Payload, inner: Tensor, start: int, piece: Tensor, weight: float) -> None:
        """The same to a piece, (k,), from `start`, a multiple of unit; k is another, or ends the tensor."""
        raise NotImplementedError(f"{self!r} is read as a whole")


def encode(stages: Sequence[Stage], tensor: Tensor, states: Sequence[Any]) -> tuple[Packet, tuple[Any, ...]]:
    """The packet that these stages make of a tensor one after the other, and their next states."""
    dtype, shape = name_of(tensor.dtype), tuple(tensor.shape)
    parts = layout(stages, shape, tensor.dtype)
    payload = memory(parts[-1].offset + parts[-1].size_bytes)
    current, after = tensor.detach(), []
    for part, state in zip(parts[:-1], states[:-1], strict=True):
        payload[part.offset + part.size_bytes : part.offset + part.size_bytes + -part.size_bytes % 8] = 0
        current, next_state = part.stage.split(current, payload[part.offset : part.offset + part.size_bytes], state)
        after.append(next_state)
    after.append(parts[-1].stage.write(current.reshape(-1), payload[parts[-1].offset :], states[-1]))
    stamps = tuple(stage.stamp for stage in stages)
    return Packet(VERSION, stamps, dtype, shape, payload.numpy().data), tuple(after)


def memory(size_bytes: int) -> Tensor:
    """(size_bytes,) uint8, not set. numpy's: the system gives that again and again, torch's is new each time."""
    return torch.from_numpy(np.empty(size_bytes, np.uint8)) if size_bytes else torch.empty(0, dtype=torch.uint8)


def fill(out: Tensor, payload: Payload, offset_bytes: int) -> Tensor:
    """Copies payload bytes into out: (k,), contiguous; returns it. Payloads may be unaligned, read-only."""
    raw = out.view(torch.uint8).numpy()
    raw[:] = np.frombuffer(payload, np.uint8, raw.size, offset_bytes)
    return out
