"""A training run in one thread: real learners, codecs, merges and outer steps; no sockets, no processes, no failures.

What a codec costs in loss shows here apart from everything else: all learners deliver each round at once, with equal
steps, and the same seed gives the same run to the bit (torch.set_num_threads(1)). Units, quorums and overlap are not here.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from plesio import codecs
from plesio.codecs import Packet
from plesio.core.effects import CloseRound
from plesio.core.spec import RunSpec
from plesio.records import Contribution, Version
from plesio.runtime.encoder import Encoder
from plesio.runtime.fragments import unpack_state
from plesio.runtime.outerstate import OuterState
from plesio.runtime.replica import Replica
from plesio.strategies.base import Strategy
from plesio.strategies.merge import weights
from plesio.strategies.schedule import Timeline


@dataclass(frozen=True)
class Job:
    """What is trained. loss: of one step, of a learner (0, 1, ...) and the number of its step; held_out: of a model."""

    model: nn.Module  # before its first step
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    loss: Callable[[nn.Module, int, int], Tensor]
    held_out: Callable[[nn.Module], float]
    tokens_a_step: int
    rate: Callable[[int], float]  # the learning rate of a step


@dataclass
class Course:
    """How it went. pushes: length of each, in bytes; losses: (committed tokens, held-out loss of what learners see)."""

    pushes: list[int] = field(default_factory=list)
    downs: list[int] = field(default_factory=list)
    losses: list[tuple[int, float]] = field(default_factory=list)


class Peer:
    """One learner: its replica, and its encoder, as the codec thread of a real one holds it."""

    def __init__(self, job: Job, number: int, spec: RunSpec) -> None:
        self.job = job
        self.number = number
        self.spec = spec
        self.steps = 0
        model = copy.deepcopy(job.model)
        self.replica = Replica(model, job.optimizer(model), job.held_out)
        self._use(spec.schedule.phases[0].strategy)

    def enter(self, strategy: Strategy) -> None:
        """The next rounds are of this strategy."""
        if self.replica.enter(strategy.kind):
            self._use(strategy)

    def _use(self, strategy: Strategy) -> None:
        text = self.spec.uplink_of(strategy.kind)
        self.encoder = Encoder(text, strategy.kind == "local", self.replica.layout)

    def work(self, strategy: Strategy) -> bytes:
        """The steps of one round; the push."""
        for _ in range(strategy.every):
            optimizer = self.replica.optimizer.optimizer
            for group in optimizer.param_groups:
                group["lr"] = self.job.rate(self.steps)
            optimizer.zero_grad()
            self.job.loss(self.replica.model, self.number, self.steps).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            self.steps += 1
        value = self.replica.take_delta() if strategy.kind == "local" else self.replica.take_gradient()
        packet, lost = self.encoder.encode(value)
        self.replica.keep(lost)
        return packet.to_bytes()


def train(job: Job, spec: RunSpec, looks: int = 6) -> Course:
    """Rounds until `until_tokens` are merged; the held-out loss is looked at so many times, the last one at the end.

    Raises CodecError when a change is NaN or Inf.
    """
    assert spec.until_tokens is not None
    tokens = spec.until_tokens
    peers = [Peer(job, number, spec) for number in range(spec.learners)]
    outer, timeline, course = OuterState(spec.downlink), Timeline(spec.schedule), Course()
    outer.load(peers[0].replica.state()())
    _, flat, tensors = unpack_state(outer.dense())
    for peer in peers:
        peer.replica.load(flat, tensors)
    number = done = 0
    while done < tokens:
        strategy = timeline.at(number + 1)
        if timeline.changes_at(number):
            outer.load(peers[0].replica.state()())
        for peer in peers:
            peer.enter(strategy)
        number += 1
        done += _round(outer, peers, strategy, number, course)
        timeline = timeline.closed(number, done)
        if done >= tokens or done * looks // tokens > len(course.losses):
            course.losses.append((done, peers[0].replica.loss()))
    return course


def _round(outer: OuterState, peers: Sequence[Peer], strategy: Strategy, number: int, course: Course) -> int:
    """Makes a version and gives it to all. The tokens in it."""
    pushes = [peer.work(strategy) for peer in peers]
    tokens = strategy.every * peers[0].job.tokens_a_step
    said = [
        Contribution("", str(peer.number), 1, number, (Version(1, number - 1),), tokens, strategy.every)
        for peer in peers
    ]
    order = CloseRound(Version(1, number), (), weights(strategy.merge, said), len(peers), False, "", "")
    what, data = outer.merge(order, [outer.check(push, b"", b"") for push in pushes], (), strategy)
    for peer in peers:
        peer.replica.advance(what, codecs.decode(Packet.from_bytes(data)), b"")
    course.pushes += map(len, pushes)
    course.downs.append(len(data))
    return tokens * len(peers)


def warmup_then_cosine(peak: float, warmup: int, steps: int, low: float = 0.1) -> Callable[[int], float]:
    """A learning rate by step: up in a line, then down in half a cosine to low * peak, where it stays."""

    def rate(step: int) -> float:
        share = min(1.0, max(0.0, (step - warmup) / max(1, steps - warmup)))
        return peak * min(1.0, (step + 1) / warmup) * (low + (1 - low) * (1 + math.cos(math.pi * share)) / 2)

    return rate
