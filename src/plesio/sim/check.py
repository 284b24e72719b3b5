"""The reference: an independent and much simpler reading of the journaled facts, checked after every commit.

I1: a unit is applied at most once and never re-issued afterwards. I2: committed numbers only grow, in the newest
lineage only. I4: a gradient is merged only on the very version before. And state = fold(facts).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from plesio.core import facts as f
from plesio.core.state import Durable, apply
from plesio.records import Contribution, Dataset, Span, Version
from plesio.sim.content import Content
from plesio.strategies.schedule import Schedule, Timeline

UnitId = tuple[int, int]
PushId = tuple[str, int, int]

_encode = msgspec.msgpack.Encoder().encode


def _units(spans: tuple[Span, ...]) -> set[UnitId]:
    return {(s.epoch, i) for s in spans for i in range(s.start, s.stop)}


class Reference:
    """Owns what it has seen. Every method raises AssertionError when an invariant is broken."""

    def __init__(self, schedule: Schedule, steps: int) -> None:
        self.schedule = schedule
        self.steps = steps
        self.shadow = Durable()
        self.facts = 0
        self.holder: dict[UnitId, tuple[str, int]] = {}  # who has the lease, or sent it
        self.pool: set[UnitId] = set()
        self.issued: set[UnitId] = set()
        self.applied: set[UnitId] = set()
        self.partial: set[UnitId] = set()
        self.sent: dict[UnitId, PushId] = {}  # the push that carries its end
        self.leftovers: set[UnitId] = set()  # their worker is gone, a part was sent
        self.accepted: dict[PushId, Contribution] = {}
        self.rounds: dict[int, tuple[PushId, ...]] = {}  # provisional versions
        self.merged_ever: set[PushId] = set()
        self.generation: Counter[str] = Counter()
        self.live: set[str] = set()
        self.lineage = 1
        self.newest = 0
        self.committed_number = -1
        self.snapshot = ""
        self.finished = ""

    def summary(self) -> str:
        """One line for a failure's message."""
        return (
            f"issued {len(self.issued)}, applied {len(self.applied)}, partial {len(self.partial)}, pool "
            f"{len(self.pool)}, lineage {self.lineage}, newest {self.newest}, committed {self.committed_number}, "
            f"live {sorted(self.live)}"
        )

    def committed(self, facts: list[f.Fact]) -> None:
        """One batch became durable."""
        for fact in facts:
            apply(self.shadow, fact)
            self.facts += 1
            handler: Callable[[Reference, Any], None] | None = self._FACTS.get(type(fact))
            if handler is not None:
                handler(self, fact)
        book = self.shadow.book
        assert (book.issued, book.done, book.partial) == (len(self.issued), len(self.applied), len(self.partial)), (
            f"I1: the book counts issued {book.issued}, applied {book.done}, partial {book.partial}; {self.summary()}"
        )
        assert len(self.issued) == len(self.applied) + len(self.partial) + len(book.tasks), "I1: a unit is lost"

    def compare(self, durable: Durable) -> None:
        """The process's state is the fold of what is committed."""
        assert durable.facts == self.facts, "a fact was acted upon and not committed"
        assert _encode(durable) == _encode(self.shadow), "state != fold(facts)"

    def _joined(self, fact: f.MemberJoined) -> None:
        assert fact.generation > self.generation[fact.name], "generations rise"
        assert fact.name not in self.live, "the older generation was not ended"
        self.generation[fact.name] = fact.generation
        self.live.add(fact.name)

    def _ended(self, fact: f.MemberEnded) -> None:
        assert fact.name in self.live and fact.generation == self.generation[fact.name]
        self.live.discard(fact.name)
        me = (fact.name, fact.generation)
        mine = {u for u, who in self.holder.items() if who == me and u not in self.sent}
        back, partial = _units(fact.returned), _units(fact.partial)
        assert back | partial == mine and not back & partial, f"I1: {me} held {mine}, gave back {back}, {partial}"
        begun = {u for c in self._standing() for u in _units(c.begun)}
        assert not back & begun, f"I1: {back & begun} go back although a part of them was sent"
        self._to_pool(back)
        for unit in partial:
            self._leave_incomplete(unit)

    def _leave_incomplete(self, unit: UnitId) -> None:
        """Its worker is gone, a part of it was sent: it counts as partial once that part is committed."""
        del self.holder[unit]
        begun = [p for p, c in self.accepted.items() if unit in _units(c.begun)]
        assert begun, f"I1: {unit} is called partial, and nothing of it was sent"
        if any(p in self.merged_ever for p in begun):
            self._count(self.partial, unit)
        else:
            self.leftovers.add(unit)

    def _standing(self) -> list[Contribution]:
        """Pushes that were accepted and not taken back, committed ones included."""
        return list(self.accepted.values())

    def _count(self, to: set[UnitId], unit: UnitId) -> None:
        assert unit not in self.applied and unit not in self.partial, f"I1: {unit} is counted twice"
        to.add(unit)

    def _to_pool(self, units: set[UnitId]) -> None:
        for unit in units:
            assert unit in self.issued and unit not in self.applied | self.partial, (
                f"I1: {unit} re-issued after its end"
            )
            assert unit not in self.pool, f"I1: {unit} given back twice"
            self.holder.pop(unit, None)
            self.sent.pop(unit, None)
            self.leftovers.discard(unit)
            self.pool.add(unit)

    def _leased(self, fact: f.UnitsLeased) -> None:
        assert fact.name in self.live and fact.generation == self.generation[fact.name], "a lease for the dead"
        for unit in _units(fact.spans):
            assert unit not in self.holder and unit not in self.leftovers, f"I1: {unit} leased twice"
            assert unit not in self.applied | self.partial, f"I1: {unit} leased after its end"
            assert unit in self.pool or unit not in self.issued
            self.pool.discard(unit)
            self.issued.add(unit)
            self.holder[unit] = (fact.name, fact.generation)

    def _accepted(self, fact: f.ContributionAccepted) -> None:
        push = fact.contribution
        key = (push.contributor, push.generation, push.seq)
        assert key not in self.accepted and key not in self.merged_ever, f"I1: push {key} is counted twice"
        assert push.contributor in self.live and push.generation == self.generation[push.contributor], (
            f"fencing: push {key} of a generation that is over"
        )
        assert push.base.lineage == self.lineage, f"fencing: push {key} is of an older lineage"
        for unit in _units(push.ended) | _units(push.begun):
            assert self.holder.get(unit) == key[:2] and unit not in self.sent, (
                f"I1: {key} names {unit}, not leased to it"
            )
        for unit in _units(push.ended):
            self.sent[unit] = key
        self.accepted[key] = push

    def _voided(self, fact: f.ContributionVoided) -> None:
        back = _units(fact.returned)
        for unit in _units(fact.partial):
            assert self.holder.get(unit) == (fact.name, fact.generation) and unit not in self.sent
            self._leave_incomplete(unit)
        for unit in back:
            assert self.holder.get(unit) == (fact.name, fact.generation) and unit not in self.sent
            begun = [k for k, c in self.accepted.items() if unit in _units(c.begun)]
            assert not begun, f"I1: {unit} goes back although {begun} hold a part of it"
        self._to_pool(back)

    def _closed(self, fact: f.RoundClosed) -> None:
        number = fact.version.number
        assert fact.version == Version(self.lineage, self.newest + 1), "I2: a round that does not follow"
        assert number not in self.rounds, "I2: two rounds make one version"
        for key in fact.pushes:
            push = self.accepted.get(key)
            assert push is not None and all(key not in r for r in self.rounds.values()), f"{key} is merged twice"
            timeline = Timeline(self.schedule, fact.ends)
            kind = timeline.at(number).kind
            if kind == "replicated":
                assert push.base == Version(self.lineage, number - 1), f"I4: {key} on {push.base} in round {number}"
            assert timeline.at(push.base.number + 1).kind == kind, f"I4: {key} is of another kind of round"
        self.rounds[number] = fact.pushes

    def _merged(self, fact: f.VersionMerged) -> None:
        assert fact.version.lineage == self.lineage and fact.version.number == self.newest + 1 in self.rounds
        self.newest = fact.version.number

    def _version_committed(self, fact: f.VersionCommitted) -> None:
        number = fact.version.number
        assert fact.version.lineage == self.lineage, "I2: a version of an older lineage was committed"
        assert number > self.committed_number, "I2: committed numbers only grow"
        assert number <= self.newest, "I2: committed before it was merged"
        for made in [n for n in self.rounds if n <= number]:
            for key in self.rounds.pop(made):
                self.merged_ever.add(key)
                for unit in [u for u, k in self.sent.items() if k == key]:
                    del self.sent[unit]
                    self.holder.pop(unit, None)
                    self._count(self.applied, unit)
                for unit in _units(self.accepted[key].begun) & self.leftovers:
                    self.leftovers.discard(unit)
                    self._count(self.partial, unit)
        self.committed_number, self.snapshot = number, fact.snapshot

    def _rolled_back(self, fact: f.RolledBack) -> None:
        assert fact.to.number == self.committed_number and fact.lineage == self.lineage + 1, "I2: rolled back elsewhere"
        back, again, partial = _units(fact.returned), _units(fact.reheld), _units(fact.partial)
        lost = set(self.sent) | self.leftovers
        assert back | again | partial == lost, f"I1: lost {lost}, given back {back}, held {again}, partial {partial}"
        assert len(back) + len(again) + len(partial) == len(lost), "I1: a unit is given back twice"
        in_model = {u for k in self.merged_ever for u in _units(self.accepted[k].begun)}
        assert not back & in_model, f"I1: {back & in_model} go back although a part of them is committed"
        for unit in partial:
            del self.holder[unit], self.sent[unit]
            assert unit in in_model
            self._count(self.partial, unit)
        for unit in again:
            del self.sent[unit]
            name, generation = self.holder[unit]
            assert name in self.live and generation == self.generation[name]
        self._to_pool(back)
        self.accepted = {k: c for k, c in self.accepted.items() if k in self.merged_ever}
        self.rounds.clear()
        self.newest, self.lineage = self.committed_number, fact.lineage

    def _run_finished(self, fact: f.RunFinished) -> None:
        assert fact.version.number == self.committed_number == self.newest and not self.finished
        self.finished = fact.reason

    def check_all_counted(self, dataset: Dataset) -> None:
        """Every unit of every epoch is applied or partial."""
        everything = {(e, i) for e in range(dataset.epochs) for i in range(dataset.units)}
        assert self.applied | self.partial == everything, f"I1: lost {everything - self.applied - self.partial}"

    def check_end(self, dataset: Dataset, disk: dict[str, tuple[Version, Content]]) -> None:
        """Nothing is lost, and the model holds each step of each applied unit once."""
        self.check_all_counted(dataset)
        if self.steps == 1:
            assert not self.partial, "a unit of one step is never partial"
        seen = Counter(disk[self.snapshot][1])
        twice = [x for x, n in seen.items() if n > 1]
        assert not twice, f"I1: the model learned {twice} more than once"
        wanted = {(u, k) for u in self.applied for k in range(self.steps)}
        assert wanted <= set(seen), f"I1: the model lacks {sorted(wanted - set(seen))}, counted as applied"
        extra = {u for u, _ in set(seen) - wanted}
        assert extra <= self.partial, f"the model holds {extra}, counted neither applied nor partial"

    _FACTS: dict[type, Callable[[Reference, Any], None]] = {
        f.MemberJoined: _joined,
        f.MemberEnded: _ended,
        f.UnitsLeased: _leased,
        f.ContributionAccepted: _accepted,
        f.ContributionVoided: _voided,
        f.RoundClosed: _closed,
        f.VersionMerged: _merged,
        f.VersionCommitted: _version_committed,
        f.RolledBack: _rolled_back,
        f.RunFinished: _run_finished,
    }
