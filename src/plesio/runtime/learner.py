"""The learner inside the user's process, as the user's loop sees it: its units, its steps, and when it has to wait.

What arrives and what leaves is the Participant's. All that is here runs on the main thread.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch

from plesio.core import stimuli as s
from plesio.records import Dataset
from plesio.runtime.participant import Participant, Settings, UnitId
from plesio.wire.timings import Kind

LEAST_AHEAD = 8  # units asked for at once, when they are long enough
LEAVE_S = 20.0  # at most, for saying goodbye
FINAL_S = 30.0  # at most, for the final version to arrive


class LearnerEngine:
    """Drives the participant from the user's loop. Called by the user's main thread only."""

    def __init__(
        self,
        settings: Settings,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        evaluate: Callable[[torch.nn.Module], float] | None,
    ) -> None:
        self.settings = settings
        self.participant = Participant(settings, model, optimizer, evaluate)
        self.arrivals = self.participant.arrivals
        self.book = self.participant.book
        self.replica = self.participant.replica
        self.meter = self.participant.meter
        self.settled = False  # the model is the final version

    # -- joining and leaving

    def join(self) -> None:
        """Takes part: returns when the model holds the run's newest version. Raises UserError when refused."""
        self.participant.link.start()
        while self.book.base is None and not self.arrivals.over:
            self.participant.handle_next()
        self.meter.left_s = time.monotonic()

    def ask_to_leave(self) -> None:
        """For a signal handler: the main thread's next visit here ends the script."""
        self.participant.events.put((SystemExit(0), None))

    def leave(self) -> None:
        """Sends what is not sent yet, waits until it is merged and nobody needs this learner's state, and goes."""
        participant = self.participant
        participant.saying_goodbye = True
        until_s = time.monotonic() + LEAVE_S
        if not self.arrivals.over and self.book.base is not None:
            self._push_rest()
            self._handle_while(lambda: bool(self.book.in_flight) and not participant.released, until_s - LEAVE_S / 2)
            participant.link.leave(s.Leave(self.settings.name, self.book.generation))
            self._handle_while(lambda: not participant.released, until_s)
        participant.stop()

    def _handle_while(self, condition: Callable[[], bool], until_s: float) -> None:
        while condition() and not self.arrivals.over and time.monotonic() < until_s:
            self.participant.handle_next(timeout_s=0.2)

    # -- units

    def next_unit(self, dataset: Dataset, steps: int) -> UnitId | None:
        """The next unit, or None when the run is over. Waits, applying versions, while none is free.

        steps: of one unit. Units for 2H steps are kept here, so that one that is cut off can go on so long.
        """
        participant = self.participant
        spent_s = self.meter.enter()
        participant.on_main.add(Kind.COMPUTE, self.meter.left_s - spent_s, spent_s)
        self.meter.phase = "training"
        participant.drain()
        while not self.arrivals.over:
            ahead = max(LEAST_AHEAD, -(-2 * self.arrivals.strategy().every // steps))
            if len(participant.units) <= ahead // 2 and participant.waiting_for is None:
                participant.ask(dataset, ahead)
            if participant.units and not self.arrivals.final:
                self.meter.leave()
                return participant.begin_unit()
            if participant.nothing_left:
                self._push_rest()
            self.meter.phase = "idle"
            participant.handle_next()
        self._settle_final()
        self.meter.leave()
        return None

    def end_unit(self) -> None:
        """The loop is done with its current unit."""
        unit = self.participant.current
        if unit is not None and unit in self.book.unsent.begun:
            self.book.end(unit)
        self.participant.current = None

    # -- steps

    def step(self, tokens: int, loss: float | None, ends_unit: bool) -> None:
        """One optimizer step of the user's loop is done (or, in gradient rounds, noted)."""
        participant = self.participant
        spent_s = self.meter.enter()
        if self.settings.slowdown > 1.0:
            time.sleep(spent_s * (self.settings.slowdown - 1.0))
            spent_s += self.meter.enter()
        self.meter.step(tokens, loss, spent_s)
        participant.on_main.add(Kind.COMPUTE, self.meter.left_s - spent_s, spent_s)
        rejoins = participant.rejoins
        if not self.gradients:  # one leaves on the base that it was computed on
            participant.drain()
        if self.arrivals.over:
            self._settle_final()
        elif participant.void_unit or participant.rejoins != rejoins:
            self.replica.discard()
        else:
            self.book.step(tokens, participant.current, ends_unit)
            if self.gradients:
                self._gradient_round()
            else:
                self._local_step()
        while self.arrivals.final and not self.arrivals.over:
            participant.handle_next()
        if self.arrivals.over:
            self._settle_final()
        self.meter.leave()

    @property
    def gradients(self) -> bool:
        """Are these rounds of gradients?"""
        return self.replica.kind in ("replicated", "served")

    def _gradient_round(self) -> None:
        may_be_under_way = self.arrivals.strategy().overlap
        self.participant.push_gradient()
        self.meter.phase = "waiting"
        while len(self.book.in_flight) > may_be_under_way and not self.arrivals.over:
            self.participant.handle_next()
        self.participant.drain()
        self.meter.phase = "training"

    def _local_step(self) -> None:
        strategy = self.arrivals.strategy()
        if not self.book.due(strategy.every):
            return
        self.meter.phase = "waiting"
        while self.book.full() and not self.arrivals.over:
            self.participant.handle_next()
        if not self.arrivals.over and self.book.unsent.steps:
            self.participant.push_delta(last=False)
        while strategy.overlap == 0 and self.book.in_flight and not self.arrivals.over:
            self.participant.handle_next()
        self.meter.phase = "training"

    def _push_rest(self) -> None:
        """Nothing follows for now: what is not sent yet leaves."""
        if self.book.unsent.steps and self.arrivals.strategy().sends == "delta":
            self.participant.push_delta(last=True)

    def _settle_final(self) -> None:
        """The run is over: the model becomes the final version, once."""
        last = self.participant.last
        assert last is not None
        if self.settled:
            return
        self.settled = True
        until_s = time.monotonic() + FINAL_S
        while self.book.base is not None and self.book.base < last:
            if time.monotonic() > until_s:
                print("plesio: the final version did not arrive; the model is an earlier one", file=sys.stderr)
                break
            self.participant.handle_next(timeout_s=0.5)
        if self.book.base is not None:
            self.replica.settle()
        self.meter.phase = "done"
