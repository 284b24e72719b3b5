"""The recount of units from facts alone; it shares no code with the ledger that it checks (invariant I1).

It costs what is under way: units that have ended are kept as the few spans that they grow together to.
"""

from __future__ import annotations

import bisect
from collections.abc import Collection, Iterable, Iterator

import msgspec

from plesio.reporting.events import Event, units_in

Push = tuple[str, int, int]  # (contributor, generation, seq)
ALL_APPLIED = "all units applied"  # the reason of a run that ended with its data
FOR_GOOD = 1 << 62  # a seq that no push of an ended generation reaches
STRIDE = 1 << 40  # units of an epoch, as long as nobody has said how many there are


def push_of(contribution: Event) -> Push:
    """Which push this is."""
    return contribution["contributor"], contribution["generation"], contribution["seq"]


class Ended(msgspec.Struct):
    """A set of whole numbers that grow together: sorted spans [start, stop) that do not touch."""

    spans: list[list[int]] = []

    def __contains__(self, number: int) -> bool:
        at = bisect.bisect_right(self.spans, number, key=_start) - 1
        return at >= 0 and number < self.spans[at][1]

    def add(self, number: int) -> None:
        """Of a number that is not in it."""
        at = bisect.bisect_right(self.spans, number, key=_start)
        after = at < len(self.spans) and self.spans[at][0] == number + 1
        if at and self.spans[at - 1][1] == number:
            self.spans[at - 1][1] = self.spans.pop(at)[1] if after else number + 1
        elif after:
            self.spans[at][0] = number
        else:
            self.spans.insert(at, [number, number + 1])


def _start(span: list[int]) -> int:
    return span[0]


class UnitCount(msgspec.Struct):
    """Where every unit is. Owned and changed by the fold in story.py alone. A unit's number: epoch * stride + index."""

    stride: int = STRIDE
    issued: int = 0  # different units that were ever leased
    reissued: int = 0  # leases beyond a unit's first
    applied: int = 0
    left_partial: int = 0  # partial, and nothing that could be taken back
    duplicated: int = 0
    ended: Ended = msgspec.field(default_factory=Ended)  # applied, or partial for good
    leased: dict[int, tuple[str, int]] = {}  # by (learner, generation)
    sent: dict[int, Push] = {}  # in a push that is not committed
    pool: set[int] = set()  # it came back
    partial: dict[int, Push] = {}  # a push of this generation holds a part, up to this seq; a roll-back may return it
    astray: set[int] = set()  # nobody holds it, and it never came back

    def lease(self, fact: Event) -> None:
        """UnitsLeased."""
        for unit in self._units(fact["spans"]):
            if unit in self.ended or self._take(unit):
                self.reissued += 1
            else:
                self.issued += 1
            self.leased[unit] = (fact["name"], fact["generation"])

    def accept(self, push: Event) -> None:
        """ContributionAccepted, its contribution."""
        for unit in self._units(push["ended"]):
            self._take(unit)
            self.sent[unit] = push_of(push)

    def commit(self, push: Event) -> None:
        """A push is in a committed version."""
        for unit in self._units(push["ended"]):
            if unit in self.ended or unit in self.partial:
                self.duplicated += 1
            if unit not in self.ended:
                self.ended.add(unit)
                self.applied += 1
            self._take(unit)

    def end_member(self, fact: Event) -> None:
        """MemberEnded: what its generation held and did not give back is astray."""
        self._give_back(fact["returned"])
        self._give_up(fact["partial"], (fact["name"], fact["generation"], FOR_GOOD))
        member = (fact["name"], fact["generation"])
        self._stray([unit for unit, holder in self.leased.items() if holder == member])

    def void(self, fact: Event) -> None:
        """ContributionVoided: an earlier push holds a part of what is partial."""
        self._give_back(fact["returned"])
        self._give_up(fact.get("partial", ()), (fact["name"], fact["generation"], fact["seq"]))

    def roll_back(self, fact: Event) -> None:
        """RolledBack: what was sent and not committed goes back, or to its learner again, or is astray."""
        self._give_back(fact["returned"])
        self._give_up(fact.get("partial", ()), ("", 0, 0))
        for unit in self._units(fact["reheld"]):
            if unit in self.sent:
                self.leased[unit] = self.sent.pop(unit)[:2]
        self._stray(list(self.sent))

    def settle(self, open_pushes: Collection[Push]) -> None:
        """What is partial stays so once no push that is not committed can hold a part of it."""
        for unit, (name, generation, seq) in list(self.partial.items()):
            if not any(p[:2] == (name, generation) and p[2] <= seq for p in open_pushes):
                del self.partial[unit]
                self.ended.add(unit)
                self.left_partial += 1

    def counts(self, finished: str | None) -> dict[str, int]:
        """The `units` of summary.json.

        issued: different units that were ever leased; reissued: leases beyond a unit's first; lost: when the
        data ended the run, all that is neither applied nor partial; else what is astray.
        """
        partial = self.left_partial + len(self.partial)
        return {
            "issued": self.issued,
            "applied": self.applied,
            "partial": partial,
            "reissued": self.reissued,
            "lost": self.issued - self.applied - partial if finished == ALL_APPLIED else len(self.astray),
            "duplicated": self.duplicated,
        }

    def _units(self, spans: Iterable[list[int]]) -> Iterator[int]:
        return (epoch * self.stride + index for epoch, index in units_in(spans))

    def _take(self, unit: int) -> bool:
        """From wherever it is, of all that has not ended. Was it anywhere?"""
        known = unit in self.pool or unit in self.astray
        self.pool.discard(unit)
        self.astray.discard(unit)
        found = [places.pop(unit, None) is not None for places in (self.leased, self.sent, self.partial)]
        return known or any(found)

    def _give_back(self, spans: Iterable[list[int]]) -> None:
        for unit in self._units(spans):
            self._take(unit)
            self.pool.add(unit)

    def _give_up(self, spans: Iterable[list[int]], holds: Push) -> None:
        for unit in self._units(spans):
            self._take(unit)
            if unit not in self.ended:
                self.partial[unit] = holds

    def _stray(self, units: list[int]) -> None:
        for unit in units:
            self._take(unit)
            self.astray.add(unit)
