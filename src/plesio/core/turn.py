"""What one stimulus changes: the whole state, and the turn that collects facts and effects. Pure."""

from __future__ import annotations

import msgspec

from plesio.core import effects as e
from plesio.core import facts as f
from plesio.core import stimuli as s
from plesio.core.membership import Pulse
from plesio.core.refusals import Refusals
from plesio.core.state import Durable, Member, apply


class Volatile(msgspec.Struct):
    """Estimates and what is awaited. Never journaled; owned by the coordinator's handlers."""

    pulses: dict[str, Pulse] = {}
    asking: dict[str, s.AskUnits] = {}  # idle learners: no unit was left for them
    told: dict[str, tuple[int, int]] = {}  # ... and were told so: (generation, request)
    admitting: set[str] = set()  # joiners that the next synchronous round waits for
    leaving: dict[str, int] = {}  # who wants to go: generation
    all_ended: bool = False  # every learner's script has ended by itself
    donor: str = ""  # who was asked for its state
    quorum_s: float | None = None
    merge_s: float = 0.0
    closed_s: float = 0.0
    snapshot_s: float = 0.0  # when the last one was asked for
    snapshot_cost_s: float = 0.1
    evaluated_s: float = float("-inf")
    evaluation_cost_s: float = 0.5
    started_s: float | None = None  # when the first learner came
    gathering: bool = False  # the run is resumed, and its learners are on their way
    again_s: float | None = None
    refusals: Refusals = msgspec.field(default_factory=Refusals)


class State(msgspec.Struct):
    """All that the coordinator knows."""

    durable: Durable = msgspec.field(default_factory=Durable)
    volatile: Volatile = msgspec.field(default_factory=Volatile)


class Turn:
    """One stimulus being handled: collects its facts, applying each at once, and its effects."""

    def __init__(self, state: State, now_s: float) -> None:
        self.durable = state.durable
        self.volatile = state.volatile
        self.now_s = now_s
        self.facts: list[f.Fact] = []
        self.effects: list[e.Effect] = []

    def emit(self, fact: f.Fact) -> None:
        """Records a fact."""
        apply(self.durable, fact)
        self.facts.append(fact)

    def refuse(self, who: str, reason: str) -> None:
        """Records that somebody was turned away; what comes again and again is told in bounded space."""
        fact = self.volatile.refusals.note(self.now_s, who, reason)
        if fact is not None:
            self.emit(fact)

    def tell_refusals(self, at_once: bool = False) -> None:
        """Records how often what was told came again, once its time has come."""
        for fact in self.volatile.refusals.tell(self.now_s, at_once):
            self.emit(fact)

    def order(self, effect: e.Effect) -> None:
        """Orders an effect, to be carried out after the facts are durable."""
        self.effects.append(effect)

    def current(self, name: str, generation: int) -> Member | None:
        """The member under this very generation, if it is live; else it is told to join anew."""
        member = self.durable.members.get(name)
        if member is not None and member.live and member.generation == generation:
            self.pulse(name).beat(self.now_s)
            return member
        if not self.durable.finished:
            self.order(e.Rejoin(name, generation))
        return None

    def pulse(self, name: str) -> Pulse:
        """Its signs of life."""
        return self.volatile.pulses.setdefault(name, Pulse(self.now_s))

    def usable(self, name: str) -> bool:
        """Live, not suspected, and with a state?"""
        member = self.durable.members.get(name)
        pulse = self.volatile.pulses.get(name)
        known = member is not None and member.live and pulse is not None
        return known and pulse is not None and pulse.base is not None and not pulse.suspected(self.now_s)
