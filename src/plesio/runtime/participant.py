"""A learner's part in a run: what it is told, what it sends, and its replica in step with both. For its main thread.

What to do is decided by core.arrival and core.pushbook; here it is done, to tensors (replica), by the codec thread
(coding) and over the sockets (link). When the user's loop has to wait is the learner's.
"""

from __future__ import annotations

import queue
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import torch
from torch import Tensor

from plesio.core import effects as e
from plesio.core import stimuli as s
from plesio.core.arrival import Advance, Arrivals, Drop, JoinAnew, Load
from plesio.core.pushbook import PushBook
from plesio.errors import InternalError, ModelMismatch, UserError
from plesio.records import Dataset, Version
from plesio.runtime.coding import Coding, Newest
from plesio.runtime.link import Identity, Link
from plesio.runtime.meter import Meter
from plesio.runtime.replica import Replica
from plesio.runtime.tracks import Track, report
from plesio.wire import messages as m
from plesio.wire.timings import Kind
from plesio.wire.tls import Tls

UnitId = tuple[int, int]


class Settings(msgspec.Struct, frozen=True):
    """Where and as whom a learner joins."""

    coordinator: tuple[str, int]
    token: str
    name: str
    incarnation: str
    slowdown: float = 1.0  # for demonstrations: each step takes so many times as long
    tls: Tls | None = None


class Participant:
    """Owns the replica, the push book with its arrivals, the units dealt, the codec thread and the link."""

    def __init__(
        self,
        settings: Settings,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        evaluate: Callable[[torch.nn.Module], float] | None,
    ) -> None:
        self.settings = settings
        self.replica = Replica(model, optimizer, evaluate)
        self.layout = self.replica.layout
        self.meter = Meter()
        self.on_main = Track(joining=True)  # timed spans of this thread
        self.events: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self.book = PushBook(run="", name=settings.name)
        self.arrivals = Arrivals(self.book)
        self.units: deque[UnitId] = deque()
        self.request = 0
        self.waiting_for: int | None = None
        self.nothing_left = False
        self.current: UnitId | None = None
        self.void_unit = False  # the current one is not this learner's any more
        self.last: Version | None = None  # of the run, once it is over
        self.saying_goodbye = self.released = False
        self.rejoins = 0
        identity = Identity(settings.name, settings.incarnation, self.layout.signature(), self.layout.numel)
        self.link = Link(settings.coordinator, settings.token, identity, self._on_event, self._metrics, settings.tls)
        self.coding = Coding(self.link, self.events)

    def stop(self) -> None:
        """Ends its threads."""
        self.on_main.flush()
        self.link.stop()
        self.coding.stop()

    # -- units

    def ask(self, dataset: Dataset, count: int) -> None:
        """Asks for units."""
        self.request += 1
        self.waiting_for = self.request
        self.link.ask(s.AskUnits(self.settings.name, self.book.generation, self.request, count, dataset))

    def begin_unit(self) -> UnitId:
        """The next of the units that are here."""
        self.current, self.void_unit = self.units.popleft(), False
        return self.current

    def _grant(self, message: e.GrantUnits, _: Any) -> None:
        if message.generation != self.book.generation or message.request != self.waiting_for:
            return
        self.nothing_left = not message.spans
        if message.spans:
            self.waiting_for = self.link.asked = None
            self.units.extend((x.epoch, i) for x in message.spans for i in range(x.start, x.stop))

    # -- sending

    def push_gradient(self) -> None:
        """The gradient just noted leaves."""
        self._push(self.replica.take_gradient(), last=False)

    def push_delta(self, last: bool) -> None:
        """What is not sent yet leaves; the local model goes on from there."""
        self.replica.keep(self.coding.take_lost())
        self._push(self.replica.take_delta(), last)

    def _push(self, value: Tensor, last: bool) -> None:
        """value: (n,), handed over to the codec thread."""
        assert self.arrivals.spec is not None and self.replica.kind is not None
        codec = self.arrivals.spec.uplink_of(self.replica.kind)
        push = self.book.cut(codec, "", 0, self.meter.step_s, last)
        rule = self.replica.optimizer.rule() if self.replica.kind == "served" else b""
        self.coding.push(push, value, self.replica.own_buffers(), rule)

    def _upload(self, version: Version) -> None:
        """Gives this learner's state of `version` (its base) to the synchronizer."""
        self.coding.upload(version, self.replica.state())

    # -- receiving

    def _on_event(self, message: Any, payload: memoryview | None) -> None:
        """On the link's thread: decoding goes to the codec thread, the rest straight to the main thread."""
        if isinstance(message, m.VersionMade):
            self.coding.receive(message, payload)
        else:
            self.events.put((message, None))

    def drain(self) -> None:
        """Does what has arrived."""
        while not self.events.empty():
            self.handle_next()

    def handle_next(self, timeout_s: float | None = None) -> None:
        """Waits for something to arrive, and does it. Raises what the other threads could not."""
        began_s = time.monotonic()
        try:
            message, value = self.events.get(timeout=timeout_s)
        except queue.Empty:
            return
        finally:
            waited_s = time.monotonic() - began_s
            self.on_main.add(Kind.WAIT, began_s, waited_s)
        if isinstance(message, SystemExit) and self.saying_goodbye:
            return
        if isinstance(message, (Exception, SystemExit)):
            raise message
        if isinstance(message, Newest):
            message, value = self.coding.take(message)
        handler = self._HANDLERS.get(type(message))
        if handler is None:
            raise InternalError(f"a learner does not understand {type(message).__name__}")
        handler(self, message, value)
        if isinstance(message, m.VersionMade):
            began_s += waited_s
            self.on_main.add(Kind.APPLY, began_s, time.monotonic() - began_s, message.version.number)

    def _welcome(self, message: e.Welcome, _: Any) -> None:
        if not self.arrivals.welcomed(message):
            return
        self.link.identity.generation = message.generation
        self.link.welcome()

    def _refuse(self, message: e.Refuse, _: Any) -> None:
        if self.saying_goodbye:
            self.released = True
            return
        if "another model" in message.reason:
            raise ModelMismatch(message.reason)
        raise UserError(message.reason)

    def _donate(self, message: e.DonateState, _: Any) -> None:
        wanted = self.arrivals.donated(message)
        if wanted is not None:
            self._upload(wanted)

    def _answer_push(self, message: e.AnswerPush, _: Any) -> None:
        order = self.arrivals.answered(message)
        if isinstance(order, JoinAnew):
            self._rejoin(order.why)
        elif isinstance(order, Drop):
            self.void_unit = self.void_unit or self.current in order.units
            self._forget(order.pushes)

    def _rejoin_asked(self, message: e.Rejoin, _: Any) -> None:
        if message.generation == self.book.generation:
            self._rejoin("its generation was ended")

    def _rejoin(self, why: str) -> None:
        """Joins anew: work that is not merged, leased units and the feedback residual are dropped, out loud."""
        if self.saying_goodbye:
            self.released = True
            return
        lost = self.book.unsent.steps + sum(w.steps for w in self.book.in_flight.values())
        kept = " and what feedback kept of earlier ones" if self._drop_feedback() else ""
        self.coding.start_anew()
        print(
            f"plesio: {self.settings.name} joins anew: {why}; {lost} steps{kept} dropped", file=sys.stderr, flush=True
        )
        self.rejoins += 1
        self.units.clear()
        self.waiting_for, self.nothing_left = None, False
        self.request = 0
        self.void_unit = self.current is not None
        self.arrivals.rejoin()
        incarnation = f"{self.settings.incarnation}.{self.rejoins}"
        self.link.join_again(Identity(self.settings.name, incarnation, self.layout.signature(), self.layout.numel))
        while self.book.base is None and not self.arrivals.over:
            self.handle_next()

    def _rolled_back(self, message: e.RollBack, _: Any) -> None:
        self._take_all(self.arrivals.rolled_back(message))

    def _goodbye(self, message: e.Goodbye, _: Any) -> None:
        self.released = message.generation == self.book.generation

    def _end_run(self, message: e.EndRun, _: Any) -> None:
        self.last = message.version
        self._take_all(self.arrivals.ended())

    # -- versions

    def _take_all(self, put_aside: list[tuple[Any, Any]]) -> None:
        for made, value in put_aside:
            self._version(made, value)

    def _version(self, made: m.VersionMade, value: Any) -> None:
        """A version arrived."""
        if made.kind == "state" and value[0].signature() != self.layout.signature():
            raise ModelMismatch("the run's snapshot holds another model than this script's; use another run")
        order = self.arrivals.take(made, value)
        if isinstance(order, JoinAnew):
            self._rejoin(order.why)
        elif isinstance(order, Advance):
            self._advance_to(made, value, order)
        elif isinstance(order, Load):
            self._load(made.version, value, order)

    def _advance_to(self, made: m.VersionMade, value: Any, order: Advance) -> None:
        """The base becomes this version."""
        self._forget(order.settled)
        self.replica.keep(self.coding.take_lost())
        self.replica.advance(made.kind, value, made.buffers)
        if made.evaluator == self.settings.name:
            self._evaluate(made.version)
        if order.reload:
            self._rejoin("the next phase begins")
            return
        self._arrived_at(made.version)
        if order.donate:
            self._upload(made.version)

    def _load(self, version: Version, value: Any, order: Load) -> None:
        """The base becomes this state."""
        if order.rolled_back:
            self.coding.wait()  # until all that is under way is packets
            self.replica.keep(self.coding.take_lost())
            packets = self.coding.packets  # of what is none the error is on its way, and ends us
            self.replica.give_back(packets[seq] for seq in order.back if seq in packets)
        self._forget([*order.back, *order.settled])
        if order.rolled_back and not order.keep and self._drop_feedback():
            self._say("what feedback kept is dropped: what it was kept of is rolled back")
        _, flat, tensors = value
        if order.keep:
            self.replica.move_to(flat, tensors)
        else:
            self.replica.load(flat, tensors)
            self.replica.kind = None
        self._arrived_at(version)
        me = self.link.identity
        self.link.tell(s.Hold(me.name, me.generation, version, me.incarnation))
        if order.joining and version.number == 0 and self.settings.name == "learner-0":
            self._evaluate(version)

    def _arrived_at(self, version: Version) -> None:
        """The base is this version now; are the next rounds of another kind?"""
        assert self.arrivals.spec is not None
        self.link.identity.base = version
        kind = self.arrivals.strategy().kind
        if self.replica.enter(kind) and self._drop_feedback():  # gradients are no deltas
            self._say("what feedback kept is dropped: the next rounds are of another kind")
        self.coding.use(self.arrivals.spec.uplink_of(kind), kind == "local", self.layout)

    def _drop_feedback(self) -> bool:
        """What packets lost so far is of something else than what follows. Was it anything?"""
        kept = self.coding.drop_feedback()
        self.replica.keep(self.coding.take_lost())
        return self.replica.keeps_something or kept

    def _say(self, what: str) -> None:
        print(f"plesio: {self.settings.name}: {what}", file=sys.stderr, flush=True)

    def _forget(self, seqs: list[int]) -> None:
        self.coding.forget(seqs)
        if seqs:
            self.link.settle(seqs)

    # -- measuring

    def _evaluate(self, version: Version) -> None:
        """Measures the held-out loss of the base, which is this version, where the script says how."""
        if self.replica.evaluate is None:
            return
        began_s = time.monotonic()
        loss = self.replica.loss()
        spent_s = time.monotonic() - began_s
        self.on_main.add(Kind.EVALUATE, began_s, spent_s, version.number)
        self.link.tell(s.LossMeasured(self.settings.name, self.book.generation, version, loss, spent_s))

    def _metrics(self) -> m.Metrics:
        """On the link's thread."""
        up, down = self.link.bytes_moved()
        x = self.meter
        return m.Metrics(
            self.settings.name, self.book.generation, x.tokens, x.steps, x.busy_s, x.wait_s, x.tokens_per_s, x.loss,
            x.phase, self.book.base, up, down, report((self.on_main, self.coding.track, self.link.sends)),
        )  # fmt: skip

    _HANDLERS: dict[type, Callable[[Participant, Any, Any], None]] = {
        e.Welcome: _welcome,
        e.Refuse: _refuse,
        e.GrantUnits: _grant,
        e.DonateState: _donate,
        e.AnswerPush: _answer_push,
        e.Rejoin: _rejoin_asked,
        e.RollBack: _rolled_back,
        e.Goodbye: _goodbye,
        e.EndRun: _end_run,
        m.VersionMade: _version,
    }
