"""The learner's tensors: the user's model and optimizer, the base they started from, and what lies between. No sockets.

Which rounds these are decides who holds the newest state (Strategy.kind): in `replicated` ones the model itself is
the base; in `served` ones a copy of it; in `local` ones it is the base plus the work that is not merged yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from plesio import codecs
from plesio.codecs.packets import Packet
from plesio.runtime import buffers
from plesio.runtime.fragments import Layout, pack_state
from plesio.runtime.optimizers import BoundOptimizer
from plesio.strategies.base import Kind


class Replica:
    """Owned by the learner's main thread. outer, anchor: (n,) in the model's dtype.

    outer: the base, the newest version as all learners see it. anchor: anchor - local is the change not sent yet.
    kept: the part of that change which was sent once, and which packets lost.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        evaluate: Callable[[torch.nn.Module], float] | None,
    ) -> None:
        self.model = model
        self.evaluate = evaluate
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        self.buffers = buffers.persistent(model)
        self.base_buffers = b""
        self.layout = Layout.of(named, buffers.describe(self.buffers))
        self.parameters: list[Tensor] = [p for _, p in named]
        self.optimizer = BoundOptimizer(optimizer, self.parameters)
        self.kind: Kind | None = None
        self._scratch = torch.empty(self.layout.numel, dtype=self.layout.dtype)
        self.outer = torch.empty_like(self._scratch)
        self.anchor = torch.empty_like(self._scratch)
        self.kept: Tensor | None = None

    def enter(self, kind: Kind) -> bool:
        """The next rounds are of this kind. Returns whether gradients (or deltas) were another thing before."""
        was, self.kind = self.kind, kind
        self.optimizer.deferring = kind != "local"
        if was == "replicated" and kind != "replicated":
            self.layout.gather(self.parameters, self.outer)
            self.anchor.copy_(self.outer)
        return was is not None and (was == "local") != (kind == "local")

    # -- what is sent

    def take_gradient(self) -> Tensor:
        """The gradient just noted: (n,), the caller's."""
        return self.layout.gather(self.optimizer.gradients(), torch.empty_like(self._scratch))

    def take_delta(self) -> Tensor:
        """The change not sent yet, anchor - local: (n,), the caller's; the anchor moves on."""
        local = self.layout.gather(self.parameters, self._scratch)
        delta = self.anchor - local
        self.anchor.copy_(local)
        self.kept = None
        return delta

    def keep(self, lost: Tensor | None) -> None:
        """What packets lost of a change is not sent: it stays in the local model, and goes with the next one. lost: (n,)."""
        if lost is not None:
            self.anchor.add_(lost)
            self.kept = lost if self.kept is None else self.kept.add_(lost)

    @property
    def keeps_something(self) -> bool:
        """Of what was sent once?"""
        return self.kept is not None and bool(self.kept.any())

    def own_buffers(self) -> bytes:
        """The model's buffers, if they are no longer the base's; b'' if they are."""
        mine = buffers.pack(self.buffers)
        return b"" if mine == self.base_buffers else mine

    def give_back(self, packets: Iterable[bytes]) -> None:
        """Changes that were sent are not sent again."""
        for data in packets:
            codecs.accumulate(Packet.from_bytes(data), self.anchor, 1.0)

    def state(self) -> Callable[[], bytes]:
        """The base's state now; the result packs it, on any thread."""
        if self.kind == "local":
            flat = self.outer.clone()
        else:  # ... or there is no base yet
            flat = self.layout.gather(self.parameters, torch.empty_like(self._scratch))
        optimizer = self.optimizer.state()
        extra = {buffers.PREFIX + name: buffer.clone() for name, buffer in self.buffers.items()}
        return lambda: pack_state(self.layout, flat, optimizer, extra)

    # -- what arrives

    def load(self, flat: Tensor, tensors: dict[str, Tensor]) -> None:
        """The whole state becomes this one. Work that is not sent is gone."""
        self._load_buffers(tensors)
        self.optimizer.load(tensors)
        self.layout.scatter(flat, self.parameters)
        self.outer.copy_(flat)
        self.anchor.copy_(flat)
        self.kept = None

    def move_to(self, flat: Tensor, tensors: dict[str, Tensor]) -> None:
        """The base becomes this state; the work that is not sent is kept, on top of it."""
        self._load_buffers(tensors)
        self.outer.copy_(flat)
        self._rebase()

    def advance(self, what: str, value: Any, new_buffers: bytes) -> None:
        """The next version: 'gradient' (the mean), 'delta' (the base's change) or 'params' (the base). value: (n,)."""
        if new_buffers:
            buffers.unpack(new_buffers, self.buffers)
            self.base_buffers = new_buffers
        if what == "gradient":
            self.optimizer.finish(self.layout.views(value))
            return
        if what == "delta":
            self.outer.add_(value)
        else:
            self.outer.copy_(value)
        if self.kind == "local":
            self._rebase()
        else:
            self.layout.scatter(self.outer, self.parameters)

    def discard(self) -> None:
        """The steps since the last push do not count."""
        if self.kind == "local":
            self.layout.scatter(self.anchor if self.kept is None else self.anchor - self.kept, self.parameters)
        self.optimizer.noted = False

    def settle(self) -> None:
        """The run is over: the model becomes the base, and the optimizer the user's again."""
        if self.kind == "local":
            self.layout.scatter(self.outer, self.parameters)
        buffers.unpack(self.base_buffers, self.buffers)
        self.optimizer.deferring = False

    def loss(self) -> float:
        """The user's held-out loss of the base."""
        assert self.evaluate is not None
        mine = self.layout.gather(self.parameters, self._scratch).clone() if self.kind == "local" else None
        if mine is not None:
            self.layout.scatter(self.outer, self.parameters)
        training = self.model.training
        self.model.eval()
        with torch.no_grad():
            loss = float(self.evaluate(self.model))
        self.model.train(training)
        if mine is not None:
            self.layout.scatter(mine, self.parameters)
        return loss

    def _load_buffers(self, tensors: dict[str, Tensor]) -> None:
        for name, buffer in self.buffers.items():
            buffer.detach().copy_(tensors[buffers.PREFIX + name])
        self.base_buffers = buffers.pack(self.buffers)

    def _rebase(self) -> None:
        """local = outer + (local - anchor); the work that is not sent stays."""
        local = self.layout.gather(self.parameters, self._scratch)
        local.sub_(self.anchor).add_(self.outer)
        self.anchor.copy_(self.outer)
        self.layout.scatter(local, self.parameters)
