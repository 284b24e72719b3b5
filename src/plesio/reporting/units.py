"""The recount of units from facts alone; it shares no code with the ledger that it checks (invariant I1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from plesio.reporting.events import Event, Unit, units_in

Push = tuple[str, int, int]  # (contributor, generation, seq)
ALL_APPLIED = "all units applied"  # the reason of a run that ended with its data


def push_of(contribution: Event) -> Push:
    """Which push this is."""
    return contribution["contributor"], contribution["generation"], contribution["seq"]


class UnitCount:
    """Where every unit is. Owned and changed by the fold in story.py alone."""

    def __init__(self) -> None:
        self.leases: Counter[Unit] = Counter()
        self.applied: Counter[Unit] = Counter()
        self.partial: set[Unit] = set()
        self.leased: dict[Unit, tuple[str, int]] = {}
        self.sent: dict[Unit, Push] = {}  # in a push that is not committed
        self.astray: set[Unit] = set()  # nobody holds it, and it never came back

    def lease(self, fact: Event) -> None:
        """UnitsLeased."""
        for unit in units_in(fact["spans"]):
            self.leases[unit] += 1
            self.leased[unit] = (fact["name"], fact["generation"])
            self.astray.discard(unit)

    def accept(self, push: Event) -> None:
        """ContributionAccepted, its contribution."""
        for unit in units_in(push["ended"]):
            self.leased.pop(unit, None)
            self.sent[unit] = push_of(push)

    def commit(self, push: Event) -> None:
        """A push is in a committed version."""
        for unit in units_in(push["ended"]):
            self.applied[unit] += 1
            self.sent.pop(unit, None)

    def end_member(self, fact: Event) -> None:
        """MemberEnded: what its generation held and did not give back is astray."""
        self._give_back(fact["returned"])
        self._give_up(fact["partial"])
        member = (fact["name"], fact["generation"])
        forgotten = [unit for unit, holder in self.leased.items() if holder == member]
        self._stray(self.leased, forgotten)

    def void(self, fact: Event) -> None:
        """ContributionVoided: an earlier push holds a part of what is partial."""
        self._give_back(fact["returned"])
        self._give_up(fact.get("partial", ()))

    def roll_back(self, fact: Event) -> None:
        """RolledBack: what was sent and not committed goes back, or to its learner again, or is astray."""
        self._give_back(fact["returned"])
        self._give_up(fact.get("partial", ()))
        for unit in units_in(fact["reheld"]):
            if unit in self.sent:
                self.leased[unit] = self.sent.pop(unit)[:2]
        self._stray(self.sent, list(self.sent))

    def counts(self, finished: str | None) -> dict[str, int]:
        """The `units` of summary.json.

        issued: different units that were ever leased; reissued: leases beyond a unit's first; lost: when the
        data ended the run, all that is neither applied nor partial; else what is astray.
        """
        missing = self.leases.keys() - self.applied.keys() - self.partial
        twice = {unit for unit, times in self.applied.items() if times > 1} | (self.partial & self.applied.keys())
        return {
            "issued": len(self.leases),
            "applied": len(self.applied),
            "partial": len(self.partial - self.applied.keys()),
            "reissued": sum(self.leases.values()) - len(self.leases),
            "lost": len(missing if finished == ALL_APPLIED else missing & self.astray),
            "duplicated": len(twice),
        }

    def _give_back(self, spans: Iterable[list[int]]) -> None:
        for unit in units_in(spans):
            self.leased.pop(unit, None)
            self.sent.pop(unit, None)
            self.partial.discard(unit)

    def _give_up(self, spans: Iterable[list[int]]) -> None:
        for unit in units_in(spans):
            self.leased.pop(unit, None)
            self.sent.pop(unit, None)
            self.partial.add(unit)

    def _stray(self, held: dict[Unit, Any], units: list[Unit]) -> None:
        for unit in units:
            del held[unit]
            self.astray.add(unit)
