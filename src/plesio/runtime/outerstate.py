"""The synchronizer's tensors: what learners see, the outer optimizer's state, and their file form. No sockets."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from plesio import codecs
from plesio.codecs.merging import sums_dtype
from plesio.codecs.packets import Packet
from plesio.core.effects import CloseRound
from plesio.errors import CodecError
from plesio.records import Version
from plesio.runtime import buffers
from plesio.runtime.fragments import Layout, pack_state, unpack_state
from plesio.runtime.optimizers import ServedOptimizer, read_rule
from plesio.strategies import outer
from plesio.strategies.base import Outer, Strategy


class OuterState:
    """Parameters and momentum of the newest version, and the shadow: the model as learners have decoded it.

    Owned and changed by the synchronizer's merge thread. theta, shadow, momentum: (n,), the model's dtype. Where the
    downlink loses nothing, the shadow is theta itself, once a version has been sent.
    """

    def __init__(self, downlink: str) -> None:
        self.codec = codecs.parse(downlink)
        self._changes = codecs.without_feedback(self.codec).under_feedback()  # what it loses stays in the difference
        self.layout: Layout | None = None
        self.theta = torch.empty(0)
        self.shadow = torch.empty(0)
        self.momentum = torch.empty(0)
        self.optimizer: dict[str, Tensor] = {}
        self.buffers: dict[str, Tensor] = {}
        self.served: ServedOptimizer | None = None  # which has `optimizer` as its state
        self._gradient_state: Any = None
        self._feedback: Any = None
        self._change_state: Any = None
        self._mean = torch.empty(0)  # of gradients, where learners get that

    def load(self, data: bytes | memoryview) -> None:
        """Takes over a state file, or a learner's upload that was checked."""
        self.layout, self.theta, tensors = unpack_state(data)
        self.shadow = tensors.get("shadow", self.theta)
        if self._changes.needs_feedback:
            self.shadow = self.shadow.clone()
        self.momentum = tensors.get("momentum", torch.zeros_like(self.theta)).clone()
        self.optimizer = {k: v for k, v in tensors.items() if k.startswith("optim.")}
        self.buffers = {k.removeprefix(buffers.PREFIX): v for k, v in tensors.items() if k.startswith(buffers.PREFIX)}
        self.served = self._feedback = self._change_state = None
        self.codec, self._changes = map(self.layout.bound, (self.codec, self._changes))

    def dump(self) -> bytes:
        """The state file of the newest version."""
        assert self.layout is not None
        extra = {"shadow": self.shadow, "momentum": self.momentum, **self._named_buffers()}
        return pack_state(self.layout, self.theta, self._optimizer_state(), extra)

    def dense(self) -> bytes:
        """What a joiner gets: the model as all learners see it."""
        assert self.layout is not None
        return pack_state(self.layout, self.shadow, self._optimizer_state(), self._named_buffers())

    def _optimizer_state(self) -> dict[str, Tensor]:
        return self.optimizer if self.served is None else self.served.state()

    def _named_buffers(self) -> dict[str, Tensor]:
        return {buffers.PREFIX + name: buffer for name, buffer in self.buffers.items()}

    def model(self) -> dict[str, Tensor]:
        """What a user loads: parameters and buffers by name."""
        assert self.layout is not None
        return {k: v.clone() for k, v in {**self.layout.named(self.theta, ""), **self.buffers}.items()}

    def check_state(self, data: bytes | memoryview) -> None:
        """A learner's upload, refused unless it is a finite state of this model. Raises CodecError."""
        layout, theta, tensors = unpack_state(data)
        if self.layout is not None and layout.signature() != self.layout.signature():
            raise CodecError("the state is another model's")
        if "shadow" in tensors or "momentum" in tensors:
            raise CodecError("the outer state is not a learner's to give")
        if not bool(theta.isfinite().all()):
            raise CodecError("the state holds NaN or Inf")
        known = {k.removeprefix(buffers.PREFIX): v for k, v in tensors.items() if k.startswith(buffers.PREFIX)}
        if buffers.describe(known) != layout.buffers:
            raise CodecError("the state's buffers are not those of its model")

    def check(self, data: bytes | memoryview, mine: bytes, rule: bytes) -> Packet:
        """A learner's push, refused unless it decodes to this model's size, as its buffers do. Raises CodecError.

        rule: of its optimizer; b'': its rounds need none.
        """
        if mine:
            buffers.unpack(mine, {k: v.clone() for k, v in self.buffers.items()})
        packet = Packet.from_bytes(data)
        if self.layout is None:
            raise CodecError("a push before there is a model")
        if packet.shape != (self.layout.numel,):
            raise CodecError(f"a push of shape {packet.shape} for a model of {self.layout.numel} parameters")
        if not codecs.is_finite(packet):
            raise CodecError("a push holds NaN or Inf")
        if rule:
            read_rule(rule, len(self.layout.names))
        return packet

    def merge(
        self, order: CloseRound, packets: Sequence[Packet], rules: Sequence[bytes], strategy: Strategy
    ) -> tuple[str, bytes]:
        """Makes the next version; returns the kind and the packet of what the learners get. rules: see `check`."""
        if strategy.kind == "served":
            return self._serve(packets, rules)
        if strategy.kind == "replicated":
            return "gradient", self._send_gradient(self._average(packets, order.factors).to(self.theta.dtype))
        self.step(strategy.outer, packets, order.factors, order.contributors)
        return self._send_change()

    def step(self, rule: Outer, packets: Sequence[Packet], factors: Sequence[float], contributors: int) -> None:
        """An outer step with the weighted sum of the packets, each piece of which is still in cache when it is applied."""
        self._mean = torch.empty(0)
        for start, sums in codecs.merged(packets, factors):
            own = slice(start, start + len(sums))
            outer.step(rule, self.theta[own], self.momentum[own], sums, contributors)

    def _average(self, packets: Sequence[Packet], factors: Sequence[float]) -> Tensor:
        """(n,): their weighted sum, in float32 or wider. Lasts until the next."""
        dtype = sums_dtype(packets)
        if (self._mean.shape, self._mean.dtype) != (packets[0].shape, dtype):
            self._mean = torch.empty(packets[0].shape, dtype=dtype)
        for _ in codecs.merged(packets, factors, self._mean):
            pass
        return self._mean

    def _serve(self, packets: Sequence[Packet], rules: Sequence[bytes]) -> tuple[str, bytes]:
        """Each gradient is a step of the optimizer that is kept here."""
        assert self.layout is not None
        if self.served is None:
            self.served = ServedOptimizer(self.layout.views(self.theta), self.optimizer)
        for packet, rule in zip(packets, rules, strict=True):
            self.served.step(rule, self.layout.views(codecs.decode(packet)))
        return self._send_change()

    def merge_buffers(self, factors: Sequence[float], parts: Sequence[bytes]) -> bytes:
        """The mean of the contributors' buffers becomes ours; returns it, for the learners. b'': nothing changed."""
        merged = buffers.mean(parts, factors)
        if merged:
            buffers.unpack(merged, self.buffers)
        return merged

    def _send_gradient(self, mean: Tensor) -> bytes:
        if self._feedback is None:
            self._feedback = codecs.with_feedback(self.codec)
            self._gradient_state = self._feedback.init(mean)
        packet, self._gradient_state = self._feedback.encode(mean, self._gradient_state)
        data: bytes = packet.to_bytes()
        return data

    def _send_change(self) -> tuple[str, bytes]:
        """theta - shadow, encoded; what the codec loses stays in the difference: feedback on the server's side.

        A codec that loses nothing sends theta itself, which is as long and exact.
        """
        if not self._changes.needs_feedback:
            self.shadow = self.theta
            packet, _ = self._changes.encode(self.theta, self._changes.init(self.theta))
            return "params", packet.to_bytes()
        change = self.theta - self.shadow
        if self._change_state is None:
            self._change_state = self._changes.init(change)
        packet, self._change_state = self._changes.encode(change, self._change_state)
        codecs.accumulate(packet, self.shadow, 1.0)
        return "delta", packet.to_bytes()


def digest(data: bytes | memoryview) -> str:
    """Of a snapshot's or a push's bytes: 128 bits of SHA-256, which processors have an instruction for."""
    return sha256(data).hexdigest()[:32]


def snapshot_name(version: Version) -> str:
    """The file of a version, in the run's folder."""
    return f"snapshot-{version.lineage}-{version.number}.safetensors"
