"""What a learner does with what it is told of the lineage: versions, roll-backs, refusals, the end. Pure; no tensors.

`Arrivals` decides and keeps the push book; its answers are orders to the driver, which has the tensors (or, simulated,
what stands for them). What a version's bytes are is not looked at: they are put aside and handed out again with it.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from plesio.core import effects as e
from plesio.core.pushbook import PushBook
from plesio.core.spec import RunSpec
from plesio.records import Version
from plesio.strategies.base import Kind, Strategy
from plesio.strategies.schedule import Timeline

REJOIN_AFTER = ("lease", "future", "run")  # refusals of pushes that only a new generation mends


class Made(Protocol):
    """What is said of a version, beside its bytes; wire.messages.VersionMade says what it means."""

    @property
    def version(self) -> Version: ...
    @property
    def kind(self) -> str: ...
    @property
    def merged(self) -> dict[str, tuple[int, int]]: ...
    @property
    def final(self) -> bool: ...
    @property
    def donor(self) -> str: ...
    @property
    def ends(self) -> tuple[int, ...]: ...


class Order(msgspec.Struct, frozen=True):
    """What the driver is to do."""


class Nothing(Order, frozen=True):
    """It is old, or not this learner's, or put aside until more is told."""


class JoinAnew(Order, frozen=True):
    """What is under way is lost: give it up (`Arrivals.rejoin`), and ask to join as a new incarnation."""

    why: str


class Advance(Order, frozen=True):
    """The base becomes this version: apply what came with it.

    settled: pushes that are not needed again. donate: give the new base's state to the synchronizer. reload: join anew
    afterwards, since the next rounds go on from a state that only the synchronizer has.
    """

    settled: list[int]
    donate: bool = False
    reload: bool = False


class Load(Order, frozen=True):
    """The base becomes this state, and the driver says that it holds it.

    keep: work that is not merged stays, on top of it; else it is gone. back: pushes whose work is unsent again.
    settled: other pushes that are not needed again. joining: there was no base. rolled_back: the base was of a lineage
    that is gone; not `keep` then means that what is being computed on it is worth nothing.
    """

    keep: bool = False
    back: list[int] = []
    settled: list[int] = []
    joining: bool = False
    rolled_back: bool = False


class Drop(Order, frozen=True):
    """These pushes do not count. units: what they had begun is dealt again, to whoever asks."""

    pushes: list[int]
    units: frozenset[tuple[int, int]]


class Arrivals(msgspec.Struct):
    """Where one learner is in the lineage. Owned by its driver; so is the book, which is kept here."""

    book: PushBook
    spec: RunSpec | None = None
    lineage: int = 0
    ends: tuple[int, ...] = ()  # of phases of the schedule, as of the base
    final: bool = False  # the base is the last version, as far as is known
    over: bool = False  # the run is
    gradients: int = 0  # pushes as far as this one are gradients, also when their phase is over
    rollback: e.RollBack | None = None  # told, and its state is not here yet
    stashed: list[tuple[Made, Any]] = []  # of a lineage whose roll-back was not told yet, with their bytes

    def strategy(self) -> Strategy:
        """Of the rounds that go on from the base."""
        assert self.book.base is not None
        return self._timeline(self.ends).at(self.book.base.number + 1)

    # -- what the coordinator tells

    def welcomed(self, message: e.Welcome) -> bool:
        """A generation begins, without a base. False: it is known already."""
        if message.generation == self.book.generation:
            return False
        self.spec = message.spec
        self.book.run = message.spec.run
        self.book.rejoined(message.generation)
        self.lineage, self.rollback, self.gradients = message.lineage, None, 0
        return True

    def rejoin(self) -> None:
        """Everything is given up; nothing counts until `welcomed`."""
        self.book.rejoined(0)
        self.stashed = []

    def donated(self, message: e.DonateState) -> Version | None:
        """The version of which this learner is to give its state; None: it has none that is wanted."""
        if message.generation != self.book.generation:
            return None
        return Version(self.lineage, 0) if message.initial and self.book.base is None else self.book.base

    def answered(self, message: e.AnswerPush) -> Nothing | Drop | JoinAnew:
        """A push does not count."""
        if message.generation != self.book.generation:
            return Nothing()
        if message.reason in REJOIN_AFTER:
            return JoinAnew(f"push {message.seq} was refused ({message.reason})")
        work = self.book.in_flight.get(message.seq)
        dropped = self.book.refused(message.seq, message.reason)
        return Drop(dropped, frozenset(work.begun) if work is not None and dropped else frozenset())

    def rolled_back(self, message: e.RollBack) -> list[tuple[Made, Any]]:
        """The lineage goes on elsewhere. Returns what was put aside, in order: take it now."""
        if message.generation != self.book.generation or message.lineage <= self.lineage:
            return []
        self.rollback = message
        return self._unstash()

    def ended(self) -> list[tuple[Made, Any]]:
        """The run is over; nobody will tell of a roll-back. Returns what was put aside, in order: take it now."""
        self.over = True
        return self._unstash()

    # -- what the synchronizer tells

    def take(self, made: Made, payload: Any) -> Nothing | Advance | Load | JoinAnew:
        """A version arrived."""
        if self.book.generation == 0:
            return Nothing()  # it was under way to the generation that was given up
        return self._state(made, payload) if made.kind == "state" else self._change(made, payload)

    def _change(self, made: Made, payload: Any) -> Nothing | Advance | JoinAnew:
        """It says how to come there from the version before, or (parameters) from any of these rounds."""
        base, version = self.book.base, made.version
        if self.stashed and version.lineage == self.stashed[0][0].version.lineage:
            self.stashed.append((made, payload))
            return Nothing()
        if base is None or version.lineage != base.lineage or version.number <= base.number:
            return Nothing()
        if made.kind == "gap" or (made.kind != "params" and version.number != base.number + 1):
            return JoinAnew("it missed versions")
        timeline = self._timeline(made.ends)
        before = self.strategy().kind
        if before != timeline.at(version.number).kind:
            return JoinAnew("it missed the end of a phase")
        if before != "local":
            self.gradients = self.book.seq
        settled = self.book.arrived(version, self._merged_seq(made))
        self.ends, self.final = made.ends, self.final or made.final
        reload = timeline.reloads_at(version.number) and not self.final
        return Advance(settled, made.donor == self.book.name and not reload, reload)

    def _state(self, made: Made, payload: Any) -> Nothing | Load | JoinAnew:
        """The whole state: for a joiner, after a roll-back, or instead of too many changes."""
        base, version = self.book.base, made.version
        if base is None:
            return self._load(made, Load(joining=True))
        if version <= base:
            return Nothing()
        before, after = self.strategy().kind, self._kind_after(made)
        keep = before == after == "local"
        if version.lineage == base.lineage:
            if before != after:
                return JoinAnew("it missed the end of a phase")
            return self._load(made, Load(keep, settled=self.book.arrived(version, self._merged_seq(made))))
        if self.over:  # nobody tells of a roll-back any more, and nothing that is under way counts
            return self._load(made, Load(keep))
        if self.rollback is None or self.rollback.lineage != version.lineage:
            self.stashed = [(made, payload)]
            return Nothing()
        return self._return_unmerged(made, self.rollback, keep)

    def _return_unmerged(self, made: Made, told: e.RollBack, keep: bool) -> Load | JoinAnew:
        """After a roll-back: deltas under way are unsent work again, those that had been merged are gone.

        Gradients under way that nobody has seen are lost, and their units still leased: then it joins anew. They may be
        of the phase before, too late for it.
        """
        unseen = [q for q in self.book.in_flight if q > told.settled and q not in told.voided]
        late = [q for q in unseen if q <= self.gradients]
        if self.book.torn(told.voided) or late or (not keep and (unseen or self.book.unsent.steps)):
            return JoinAnew("work under way was lost with the synchronizer")
        back, gone = self.book.rolled_back(made.version, told.voided, keep, told.settled)
        self.rollback = None
        return self._load(made, Load(keep, back, gone, rolled_back=True))

    def _load(self, made: Made, order: Load) -> Load:
        self.book.base, self.lineage, self.ends = made.version, made.version.lineage, made.ends
        self.final = False
        return order

    def _unstash(self) -> list[tuple[Made, Any]]:
        stashed, self.stashed = self.stashed, []
        return stashed

    def _merged_seq(self, made: Made) -> int:
        generation, seq = made.merged.get(self.book.name, (0, 0))
        return seq if generation == self.book.generation else 0

    def _kind_after(self, made: Made) -> Kind:
        return self._timeline(made.ends).at(made.version.number + 1).kind

    def _timeline(self, ends: tuple[int, ...]) -> Timeline:
        assert self.spec is not None
        return Timeline(self.spec.schedule, ends)
