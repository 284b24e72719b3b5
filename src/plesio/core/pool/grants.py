"""A client's side of locks, counters and so on: what it said and has not heard of, and what it holds. Pure.

Whoever drives it sends what it gives. What is not answered is said again on a new connection, in the same order; the pool
does each number once.
"""

from __future__ import annotations

from typing import TypeVar

from plesio.core.pool.effects import LOST, Answer, Granted, Refuse
from plesio.core.pool.places import LEASE_S
from plesio.core.pool.stimuli import Change, Heard, Release, Renew, Want

HEARD = 100  # answers confirmed together
Said = Want | Release | Change
Outcome = Granted | Answer | Refuse
S = TypeVar("S", Want, Release, Change)


class Grants:
    """Of one client."""

    def __init__(self, session: str) -> None:
        self.session = session
        self._newest = 0
        self._said: dict[int, Said] = {}  # and not answered
        self._outcomes: dict[int, Outcome] = {}  # for whoever waits
        self._listening: set[int] = set()
        self._held: set[int] = set()
        self._heard = 0
        self._renewed_s = 0.0

    def want(self, kind: str, name: str, owner: str, shared: bool, limit: int, wait: bool) -> Want:
        """Somebody waits for it."""
        return self._say(Want(self.session, self._number(), kind, name, owner, shared, limit, wait))

    def release(self, of: int) -> Release:
        """Somebody waits until it is given back; or, of a wait, until it ended well or the pool knows that it is over."""
        return self._say(Release(self.session, self._number(), of))

    def change(
        self, kind: str, name: str, how: str, amount: int = 0, expected: int | None = None, fence: int = 0
    ) -> Change:
        """Somebody waits for the answer."""
        return self._say(Change(self.session, self._number(), kind, name, how, amount, expected, fence))

    def _number(self) -> int:
        self._newest += 1
        return self._newest

    def _say(self, said: S) -> S:
        self._said[said.number] = said
        self._listening.add(said.number)
        return said

    def arrived(self, number: int) -> bool:
        """Is its outcome there?"""
        return number in self._outcomes

    def take(self, number: int) -> Outcome:
        """What came of it."""
        self._listening.discard(number)
        return self._outcomes.pop(number)

    def give_up(self, number: int) -> Release | None:
        """Nobody waits for it any more. Returns what to say, so that nothing is held for nobody."""
        self._listening.discard(number)
        outcome = self._outcomes.pop(number, None)
        waits = isinstance(self._said.get(number), Want)
        if waits:
            del self._said[number]
        return self._give_back(number) if waits or isinstance(outcome, Granted) else None

    def receive(self, outcome: Outcome) -> Release | None:
        """It came. Returns what to say when nobody waits for it any more."""
        number, said = outcome.number, self._said.pop(outcome.number, None)
        if isinstance(outcome, Granted):
            if number in self._held:
                return None
            if number not in self._listening:
                return self._give_back(number)
            self._held.add(number)
        elif isinstance(said, Release):
            self._held.discard(said.of)
            self._said.pop(said.of, None)
        if number in self._listening:
            self._outcomes[number] = outcome
        self._heard += said is not None
        return None

    def _give_back(self, number: int) -> Release:
        said = Release(self.session, self._number(), number)
        self._said[said.number] = said
        return said

    def lapsed(self) -> list[Want]:
        """We were taken for gone: nothing is held. Returns the waits to say again."""
        self._held.clear()
        return self._wants()

    def _wants(self) -> list[Want]:
        return [said for said in self._said.values() if isinstance(said, Want)]

    def due(self, now_s: float) -> list[Renew | Heard]:
        """What to say now and then: that we are alive, and what we have heard."""
        due: list[Renew | Heard] = []
        if self._heard >= HEARD:
            due.append(self._hear())
        if (self._held or self._wants()) and now_s - self._renewed_s >= LEASE_S / 4:
            self._renewed_s = now_s
            due.append(Renew(self.session))
        return due

    def _hear(self) -> Heard:
        self._heard = 0
        return Heard(self.session, self._newest, tuple(self._said))

    def let_go(self) -> list[Release]:
        """Of all that is held and not given back yet."""
        said = {release.of for release in self._said.values() if isinstance(release, Release)}
        return [self._give_back(number) for number in sorted(self._held - said)]

    def settling(self) -> bool:
        """Is something given back of which we have not heard that it is?"""
        return any(isinstance(said, Release) for said in self._said.values())

    def resend(self) -> list[Heard | Said]:
        """What a new connection says again."""
        return [self._hear(), *self._said.values()] if self._newest else []

    def forget(self, reason: str) -> None:
        """The pool does not know us any more: whoever waits is told so."""
        for number in self._listening.difference(self._outcomes):
            self._outcomes[number] = Refuse(self.session, number, LOST, reason)
        self._said.clear()
        self._held.clear()
