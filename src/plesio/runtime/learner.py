"""The learner inside the user's process: the model on the main thread, encoding and decoding on one, sockets on another.

All decisions about units and pushes are PushBook's; here is only what touches tensors.
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
from plesio.core.pushbook import PushBook
from plesio.core.spec import RunSpec
from plesio.errors import InternalError, ModelMismatch, PlesioError, UserError
from plesio.records import Dataset, Version
from plesio.runtime.coding import Coding, Newest
from plesio.runtime.link import Identity, Link
from plesio.runtime.meter import Meter
from plesio.runtime.replica import Replica
from plesio.runtime.tracks import Track, report
from plesio.strategies.base import Strategy
from plesio.strategies.schedule import Timeline
from plesio.wire import messages as m
from plesio.wire.timings import Kind
from plesio.wire.tls import Tls

LEAST_AHEAD = 8  # units asked for at once, when they are long enough
LEAVE_S = 20.0  # at most, for saying goodbye

UnitId = tuple[int, int]


class Settings(msgspec.Struct, frozen=True):
    """Where and as whom a learner joins."""

    coordinator: tuple[str, int]
    token: str
    name: str
    incarnation: str
    slowdown: float = 1.0  # for demonstrations: each step takes so many times as long
    tls: Tls | None = None


class LearnerEngine:
    """Owns the replica, the push book and the link. Called by the user's main thread only."""

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
        self.spec: RunSpec | None = None
        self.lineage = 0
        self.ends: tuple[int, ...] = ()  # of phases of the schedule, as of the base
        self.rollback: e.RollBack | None = None
        self.stashed: list[tuple[m.VersionMade, Any]] = []  # of a lineage whose roll-back was not told yet
        self.units: deque[UnitId] = deque()
        self.request = 0
        self.waiting_for: int | None = None
        self.nothing_left = False
        self.current: UnitId | None = None
        self.void_unit = False
        self.final = False
        self.ended: e.EndRun | None = None
        self.settled = False  # the model is the final version
        self.saying_goodbye = self.released = False
        self.rejoins = 0
        identity = Identity(settings.name, settings.incarnation, self.layout.signature(), self.layout.numel)
        self.link = Link(settings.coordinator, settings.token, identity, self._on_event, self._metrics, settings.tls)
        self.coding = Coding(self.link, self.events)

    # -- joining and leaving

    def join(self) -> None:
        """Takes part: returns when the model holds the run's newest version. Raises UserError when refused."""
        self.link.start()
        while self.book.base is None and self.ended is None:
            self._handle_next()
        self.meter.left_s = time.monotonic()

    def ask_to_leave(self) -> None:
        """For a signal handler: the main thread's next visit here ends the script."""
        self.events.put((SystemExit(0), None))

    def leave(self) -> None:
        """Sends what is not sent yet, waits until it is merged and nobody needs this learner's state, and goes."""
        self.saying_goodbye = True
        until_s = time.monotonic() + LEAVE_S
        if self.ended is None and self.book.base is not None:
            if self.book.unsent.steps and self._strategy().sends == "delta":
                self._push_delta(last=True)
            self._handle_while(lambda: bool(self.book.in_flight) and not self.released, until_s - LEAVE_S / 2)
            self.link.leave(s.Leave(self.settings.name, self.book.generation))
            self._handle_while(lambda: not self.released, until_s)
        self.on_main.flush()
        self.link.stop()
        self.coding.stop()

    def _handle_while(self, condition: Callable[[], bool], until_s: float) -> None:
        while condition() and self.ended is None and time.monotonic() < until_s:
            self._handle_next(timeout_s=0.2)

    # -- the training loop's side

    def next_unit(self, dataset: Dataset, steps: int) -> UnitId | None:
        """The next unit, or None when the run is over. Waits, applying versions, while none is free.

        steps: of one unit. Units for 2H steps are kept here, so that one that is cut off can go on so long.
        """
        spent_s = self.meter.enter()
        self.on_main.add(Kind.COMPUTE, self.meter.left_s - spent_s, spent_s)
        self.meter.phase = "training"
        self._drain()
        while self.ended is None:
            ahead = max(LEAST_AHEAD, -(-2 * self._strategy().every // steps))
            if len(self.units) <= ahead // 2 and self.waiting_for is None:
                self._ask(dataset, ahead)
            if self.units and not self.final:
                self.current, self.void_unit = self.units.popleft(), False
                self.meter.leave()
                return self.current
            if self.nothing_left and self.book.unsent.steps and self._strategy().sends == "delta":
                self._push_delta(last=True)
            self.meter.phase = "idle"
            self._handle_next()
        self._settle_final()
        self.meter.leave()
        return None

    def end_unit(self) -> None:
        """The loop is done with its current unit."""
        if self.current is not None and self.current in self.book.unsent.begun:
            self.book.end(self.current)
        self.current = None

    def step(self, tokens: int, loss: float | None, ends_unit: bool) -> None:
        """One optimizer step of the user's loop is done (or, in gradient rounds, noted)."""
        spent_s = self.meter.enter()
        if self.settings.slowdown > 1.0:
            time.sleep(spent_s * (self.settings.slowdown - 1.0))
            spent_s += self.meter.enter()
        self.meter.step(tokens, loss, spent_s)
        self.on_main.add(Kind.COMPUTE, self.meter.left_s - spent_s, spent_s)
        rejoins = self.rejoins
        if not self.gradients:  # one leaves on the base that it was computed on
            self._drain()
        if self.ended is not None:
            self._settle_final()
        elif self.void_unit or self.rejoins != rejoins:
            self.replica.discard()
        else:
            self.book.step(tokens, self.current, ends_unit)
            if self.gradients:
                self._gradient_round()
            else:
                self._local_step()
        while self.final and self.ended is None:
            self._handle_next()
        if self.ended is not None:
            self._settle_final()
        self.meter.leave()

    @property
    def gradients(self) -> bool:
        """Are these rounds of gradients?"""
        return self.replica.kind in ("replicated", "served")

    def _gradient_round(self) -> None:
        may_be_under_way = self._strategy().overlap
        self._push(self.replica.take_gradient(), last=False)
        self.meter.phase = "waiting"
        while len(self.book.in_flight) > may_be_under_way and self.ended is None:
            self._handle_next()
        self._drain()
        self.meter.phase = "training"

    def _local_step(self) -> None:
        strategy = self._strategy()
        if not self.book.due(strategy.every):
            return
        self.meter.phase = "waiting"
        while self.book.full() and self.ended is None:
            self._handle_next()
        if self.ended is None and self.book.unsent.steps:
            self._push_delta(last=False)
        while strategy.overlap == 0 and self.book.in_flight and self.ended is None:
            self._handle_next()
        self.meter.phase = "training"

    def _strategy(self) -> Strategy:
        assert self.book.base is not None
        return self._strategy_after(self.book.base, self.ends)

    def _strategy_after(self, version: Version, ends: tuple[int, ...]) -> Strategy:
        assert self.spec is not None
        return Timeline(self.spec.schedule, ends).at(version.number + 1)

    def _ask(self, dataset: Dataset, count: int) -> None:
        self.request += 1
        self.waiting_for = self.request
        self.link.ask(s.AskUnits(self.settings.name, self.book.generation, self.request, count, dataset))

    # -- sending

    def _push_delta(self, last: bool) -> None:
        """What is not sent yet leaves; the local model goes on from there."""
        self._push(self.replica.take_delta(), last)

    def _push(self, value: Tensor, last: bool) -> None:
        """value: (n,), handed over to the codec thread."""
        assert self.spec is not None
        push = self.book.cut(self.spec.uplink, "", 0, self.meter.step_s, last)
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

    def _drain(self) -> None:
        while not self.events.empty():
            self._handle_next()

    def _handle_next(self, timeout_s: float | None = None) -> None:
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
        if message.generation == self.book.generation:
            return
        if self.spec is None:
            self.spec = message.spec
            self.coding.use(message.spec.uplink)
        self.book.run = message.spec.run
        self.book.rejoined(message.generation)
        self.lineage = message.lineage
        self.rollback = None
        self.link.identity.generation = message.generation
        self.link.welcome()

    def _refuse(self, message: e.Refuse, _: Any) -> None:
        if self.saying_goodbye:
            self.released = True
            return
        if "another model" in message.reason:
            raise ModelMismatch(message.reason)
        raise UserError(message.reason)

    def _grant(self, message: e.GrantUnits, _: Any) -> None:
        if message.generation != self.book.generation or message.request != self.waiting_for:
            return
        self.nothing_left = not message.spans
        if message.spans:
            self.waiting_for = self.link.asked = None
            self.units.extend((x.epoch, i) for x in message.spans for i in range(x.start, x.stop))

    def _donate(self, message: e.DonateState, _: Any) -> None:
        if message.generation != self.book.generation:
            return
        if message.initial and self.book.base is None:
            self._upload(Version(self.lineage, 0))
        elif self.book.base is not None:
            self._upload(self.book.base)

    def _answer_push(self, message: e.AnswerPush, _: Any) -> None:
        if message.generation != self.book.generation:
            return
        if message.reason in ("lease", "future", "run"):
            self._rejoin(f"push {message.seq} was refused ({message.reason})")
        else:
            work = self.book.in_flight.get(message.seq)
            if work is not None and self.current in work.begun:
                self.void_unit = True  # the rest of it is dealt again, to whoever asks
            self._forget(self.book.refused(message.seq, message.reason))

    def _rejoin_asked(self, message: e.Rejoin, _: Any) -> None:
        if message.generation == self.book.generation:
            self._rejoin("its generation was ended")

    def _rejoin(self, why: str) -> None:
        """Joins anew: work that is not merged, leased units and the feedback residual are dropped, out loud."""
        if self.saying_goodbye:
            self.released = True
            return
        lost = self.book.unsent.steps + sum(w.steps for w in self.book.in_flight.values())
        print(f"plesio: {self.settings.name} joins anew: {why}; {lost} steps dropped", file=sys.stderr, flush=True)
        self.rejoins += 1
        self.coding.start_anew()
        self.stashed.clear()
        self.units.clear()
        self.waiting_for, self.nothing_left = None, False
        self.request = 0
        self.void_unit = self.current is not None
        self.book.rejoined(0)
        incarnation = f"{self.settings.incarnation}.{self.rejoins}"
        self.link.join_again(Identity(self.settings.name, incarnation, self.layout.signature(), self.layout.numel))
        while self.book.base is None and self.ended is None:
            self._handle_next()

    def _rolled_back(self, message: e.RollBack, _: Any) -> None:
        if message.generation == self.book.generation and message.lineage > self.lineage:
            self.rollback = message
            self._take_stashed()

    def _take_stashed(self) -> None:
        stashed, self.stashed = self.stashed, []
        for made, value in stashed:
            self._version(made, value)

    def _goodbye(self, message: e.Goodbye, _: Any) -> None:
        self.released = message.generation == self.book.generation

    def _end_run(self, message: e.EndRun, _: Any) -> None:
        self.ended = message
        self._take_stashed()

    def _version(self, made: m.VersionMade, value: Any) -> None:
        """A version arrived."""
        if made.kind == "state":
            self._take_state(made, value)
            return
        base = self.book.base
        if self.stashed and made.version.lineage == self.stashed[0][0].version.lineage:
            self.stashed.append((made, value))
            return
        if base is None or made.version.lineage != base.lineage or made.version.number <= base.number:
            return
        if made.kind == "gap" or (made.kind != "params" and made.version.number != base.number + 1):
            self._rejoin("it missed versions")
            return
        assert self.spec is not None
        if self.replica.kind != Timeline(self.spec.schedule, made.ends).at(made.version.number).kind:
            self._rejoin("it missed the end of a phase")
            return
        self._forget(self.book.arrived(made.version, self._merged_seq(made)))
        self.replica.advance(made.kind, value, made.buffers)
        if made.evaluator == self.settings.name and self.replica.evaluate is not None:
            self._evaluate(made.version)
        self.final = self.final or made.final
        if Timeline(self.spec.schedule, made.ends).reloads_at(made.version.number) and not self.final:
            self._rejoin("the next phase begins")
            return
        self._arrived_at(made.version, made.ends)
        if made.donor == self.settings.name:
            self._upload(made.version)

    def _take_state(self, made: m.VersionMade, value: Any) -> None:
        """The whole state: as a joiner, after a roll-back, or after a reconnection."""
        layout, flat, tensors = value
        if layout.signature() != self.layout.signature():
            raise ModelMismatch("the run's snapshot holds another model than this script's; use another run")
        base = self.book.base
        if base is not None and made.version.lineage < base.lineage:
            return
        if base is not None and made.version.lineage > base.lineage and self.ended is not None:
            pass  # nobody tells of a roll-back any more, and nothing that is under way counts
        elif base is not None and made.version.lineage > base.lineage:
            if self.rollback is None or self.rollback.lineage != made.version.lineage:
                self.stashed = [(made, value)]
                return
            if not self._return_unmerged(made):
                self._rejoin("work under way was lost with the synchronizer")
                return
        elif base is not None:
            if made.version.number <= base.number:
                return
            if self.replica.kind != self._strategy_after(made.version, made.ends).kind:
                self._rejoin("it missed the end of a phase")
                return
            self._forget(self.book.arrived(made.version, self._merged_seq(made)))
        local = self._strategy_after(made.version, made.ends).kind == "local"
        if base is not None and local and self.replica.kind == "local":
            self.replica.move_to(flat, tensors)
        else:
            self.replica.load(flat, tensors)
            self.replica.kind = None
        self.book.base = made.version
        self.final = False
        self._arrived_at(made.version, made.ends)
        me = self.link.identity
        self.link.tell(s.Hold(me.name, me.generation, made.version, me.incarnation))
        if base is None and made.version.number == 0:
            self._evaluate_initial(made.version)

    def _return_unmerged(self, made: m.VersionMade) -> bool:
        """After a roll-back: deltas under way are unsent work again, those that had been merged are gone.

        False: gradients were under way that nobody has seen; their units are still leased, so join anew.
        """
        assert self.rollback is not None
        self.coding.wait()
        keep = self._strategy().kind == self._strategy_after(made.version, made.ends).kind == "local"
        told = self.rollback
        unseen = [q for q in self.book.in_flight if q > told.settled and q not in told.voided]
        if self.book.torn(told.voided) or (not keep and (unseen or self.book.unsent.steps)):
            return False
        back, gone = self.book.rolled_back(made.version, told.voided, keep, told.settled)
        self.replica.give_back(self.coding.packets[seq] for seq in back)
        self._forget([*back, *gone])
        self.lineage, self.rollback = made.version.lineage, None
        if not keep:
            self.coding.drop_feedback()
        return True

    def _arrived_at(self, version: Version, ends: tuple[int, ...]) -> None:
        """The base is this version now; are the next rounds of another kind?"""
        self.lineage, self.ends = version.lineage, ends
        self.link.identity.base = version
        if self.replica.enter(self._strategy().kind):
            self.coding.drop_feedback()  # the residual of gradients is no residual of deltas

    def _forget(self, seqs: list[int]) -> None:
        self.coding.forget(seqs)
        if seqs:
            self.link.settle(seqs)

    def _merged_seq(self, made: m.VersionMade) -> int:
        generation, seq = made.merged.get(self.settings.name, (0, 0))
        return seq if generation == self.book.generation else 0

    def _settle_final(self) -> None:
        """The run is over: the model becomes the final version, once."""
        assert self.ended is not None
        if self.settled:
            return
        self.settled = True
        until_s = time.monotonic() + 30.0
        while self.book.base is not None and self.book.base < self.ended.version:
            if time.monotonic() > until_s:
                print("plesio: the final version did not arrive; the model is an earlier one", file=sys.stderr)
                break
            self._handle_next(timeout_s=0.5)
        if self.book.base is not None:
            self.replica.settle()
        self.meter.phase = "done"

    # -- measuring

    def _evaluate_initial(self, version: Version) -> None:
        if self.replica.evaluate is not None and self.settings.name == "learner-0":
            self._evaluate(version)

    def _evaluate(self, version: Version) -> None:
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

    _HANDLERS: dict[type, Callable[[LearnerEngine, Any, Any], None]] = {
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


__all__ = ["LearnerEngine", "PlesioError", "Settings"]
