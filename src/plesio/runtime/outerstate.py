"""The synchronizer's tensors: what learners see, the outer optimizer's state, and their file form. No sockets."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from plesio import codecs
from plesio.codecs.base import Packet
from plesio.core.effects import CloseRound
from plesio.errors import CodecError
from plesio.records import Version
from plesio.runtime.fragments import Layout, pack_state, unpack_state
from plesio.strategies import outer
from plesio.strategies.base import Strategy


class OuterState:
    """Parameters and momentum of the newest version, and the shadow: the model as learners have decoded it.

    Owned and changed by the synchronizer's merge thread. theta, shadow, momentum: (n,), the model's dtype.
    """

    def __init__(self, downlink: str) -> None:
        self.codec: Any = codecs.parse(downlink)
        self.layout: Layout | None = None
        self.theta = torch.empty(0)
        self.shadow = torch.empty(0)
        self.momentum = torch.empty(0)
        self.optimizer: dict[str, Tensor] = {}
        self._gradient_state: Any = None
        self._feedback: Any = None
        self._sum = torch.empty(0)

    def load(self, data: bytes | memoryview) -> None:
        """Takes over a state file, or a learner's upload."""
        self.layout, self.theta, tensors = unpack_state(data)
        self.shadow = tensors.get("shadow", self.theta).clone()
        self.momentum = tensors.get("momentum", torch.zeros_like(self.theta)).clone()
        self.optimizer = {k: v for k, v in tensors.items() if k.startswith("optim.")}
        self._sum = torch.zeros_like(self.theta)
        self._feedback = None

    def dump(self) -> bytes:
        """The state file of the newest version."""
        assert self.layout is not None
        extra = {"shadow": self.shadow, "momentum": self.momentum}
        return pack_state(self.layout, self.theta, self.optimizer, extra)

    def dense(self) -> bytes:
        """What a joiner gets: the model as all learners see it."""
        assert self.layout is not None
        return pack_state(self.layout, self.shadow, self.optimizer)

    def check(self, data: bytes | memoryview) -> Packet:
        """A learner's push, refused unless it decodes to this model's size. Raises CodecError."""
        packet = Packet.from_bytes(data)
        if self.layout is not None and packet.shape != (self.layout.numel,):
            raise CodecError(f"a push of shape {packet.shape} for a model of {self.layout.numel} parameters")
        return packet

    def merge(self, order: CloseRound, packets: Sequence[Packet], strategy: Strategy) -> bytes:
        """Makes the next version; returns the packet for the learners."""
        total = self._sum
        if total.shape != packets[0].shape:
            total = self._sum = torch.zeros(packets[0].shape, dtype=codecs.dtype_of(packets[0]))
        total.zero_()
        for factor, packet in zip(order.factors, packets, strict=True):
            codecs.accumulate(packet, total, factor)
        if strategy.sends == "gradient":
            return self._send_gradient(total)
        outer.step(strategy.outer, self.theta, self.momentum, total, order.contributors)
        return self._send_change()

    def _send_gradient(self, mean: Tensor) -> bytes:
        if self._feedback is None:
            self._feedback = codecs.with_feedback(self.codec)
            self._gradient_state = self._feedback.init(mean)
        packet, self._gradient_state = self._feedback.encode(mean, self._gradient_state)
        data: bytes = packet.to_bytes()
        return data

    def _send_change(self) -> bytes:
        """theta - shadow, encoded; what the codec loses stays in the difference: feedback on the server's side."""
        change = self.theta - self.shadow
        packet, _ = self.codec.encode(change, self.codec.init(change))
        codecs.accumulate(packet, self.shadow, 1.0)
        data: bytes = packet.to_bytes()
        return data


def digest(data: bytes) -> str:
    """Of a snapshot's or a push's bytes: 128 bits of SHA-256, which processors have an instruction for."""
    return sha256(data).hexdigest()[:32]


def snapshot_name(version: Version) -> str:
    """The file of a version, in the run's folder."""
    return f"snapshot-{version.lineage}-{version.number}.safetensors"
