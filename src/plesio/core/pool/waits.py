"""Who waits for what, in order of arrival, and whether a wait could ever end. Pure; forgotten at a restart.

A wait is refused when, even if all who wait for nothing gave back all they hold, and so on from there, it would never
be granted: a deadlock. Holders of a semaphore are alternatives: one that goes on is enough. Who waits for an event or a
barrier counts as one who goes on, as who will end that wait is not known.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import msgspec

from plesio.core.pool.places import HELD, Key, Places, admits

Ticket = tuple[str, int]  # (session, number)
Owner = tuple[int, str]  # (client, thread or task)


class Waiter(msgspec.Struct, frozen=True):
    """One that waits. limit: of a semaphore, or a barrier's parties."""

    session: str
    number: int
    kind: str
    name: str
    client: int
    owner: str
    shared: bool
    limit: int

    @property
    def key(self) -> Key:
        """What for."""
        return self.kind, self.name

    @property
    def who(self) -> Owner:
        """Whose wait it is."""
        return self.client, self.owner


class Waits:
    """All of them. Owned by the handlers."""

    def __init__(self) -> None:
        self.queues: dict[Key, dict[Ticket, Waiter]] = {}  # in order of arrival
        self.tickets: dict[Ticket, Waiter] = {}
        self.owners: dict[Owner, Waiter] = {}

    def add(self, waiter: Waiter) -> None:
        """Behind all others."""
        ticket = (waiter.session, waiter.number)
        self.queues.setdefault(waiter.key, {})[ticket] = self.tickets[ticket] = waiter
        self.owners[waiter.who] = waiter

    def remove(self, ticket: Ticket) -> Waiter | None:
        """It waits no more; None: it did not."""
        waiter = self.tickets.pop(ticket, None)
        if waiter is not None:
            queue = self.queues[waiter.key]
            del queue[ticket], self.owners[waiter.who]
            if not queue:
                del self.queues[waiter.key]
        return waiter

    def of(self, session: str) -> list[Waiter]:
        """All of a client's."""
        return [waiter for waiter in self.tickets.values() if waiter.session == session]

    def first(self, key: Key) -> Waiter | None:
        """Whose turn it is there."""
        return next(iter(self.queues.get(key, {}).values()), None)

    def line(self, key: Key) -> list[Waiter]:
        """Who waits there, in order."""
        return list(self.queues.get(key, {}).values())

    def blocked(self, owner: Owner) -> Waiter | None:
        """Its wait for something that others hold, if any."""
        waiter = self.owners.get(owner)
        return waiter if waiter is not None and waiter.kind in HELD else None


Step = tuple[Waiter, Owner, bool]  # this one waits for that one, who holds the place, or is in front of it


def cycle(places: Places, waits: Waits, waiter: Waiter) -> list[Step]:
    """Why this wait could never end, from it and back to it; nothing when it could."""
    goes_on = _those_who_go_on(places, waits, waiter)
    if goes_on(waiter.who):
        return []
    came: dict[Owner, Step] = {}
    ahead = deque([waiter])
    while waiter.who not in came:
        at = ahead.popleft()  # there is one: all who are stuck wait for this one in the end
        for owner, holds in _blockers(places, waits, at):
            blocked = waits.blocked(owner)
            if blocked is not None and not goes_on(owner) and owner not in came:
                came[owner] = (at, owner, holds)
                ahead.append(blocked)
    steps = [came[waiter.who]]
    while steps[0][0] is not waiter:
        steps.insert(0, came[steps[0][0].who])
    return steps


def _blockers(places: Places, waits: Waits, waiter: Waiter) -> Iterator[tuple[Owner, bool]]:
    """Those who have, or come before it to, what it waits for."""
    for hold in places.places.get(waiter.key, {}).values():
        yield (hold.client, hold.owner), True
    for other in waits.line(waiter.key):
        if other is waiter:
            return
        yield other.who, False


def _those_who_go_on(places: Places, waits: Waits, waiter: Waiter) -> Callable[[Owner], bool]:
    """Of all whom this wait has to do with: step by step, whoever waits for nothing or is granted gives all back."""
    lines = {key: waits.line(key) for key in _reached(places, waits, waiter)}
    holds = {key: [((h.client, h.owner), h.shared) for h in places.places.get(key, {}).values()] for key in lines}
    granted: set[Owner] = set()
    whole: set[Key] = set()  # nobody who is stuck holds these: all who wait there have their turn

    def goes_on(owner: Owner) -> bool:
        blocked = waits.blocked(owner)
        return blocked is None or blocked.key in whole or owner in granted

    grown = True
    while grown:
        grown = False
        for key in [key for key in lines if key not in whole]:
            held = holds[key] = [(owner, shared) for owner, shared in holds[key] if not goes_on(owner)]
            fresh = {other.who for other in _served(held, lines[key])} if held else set()
            grown |= not held or not fresh <= granted
            granted.update(fresh)
            if not held:
                whole.add(key)
    return goes_on


def _served(held: list[tuple[Owner, bool]], line: list[Waiter]) -> Iterator[Waiter]:
    """Those in front who have their turn, one after the other, though these hold on."""
    for waiter in line:
        if not admits([shared for _, shared in held], waiter.shared, waiter.limit):
            return
        yield waiter


def _reached(places: Places, waits: Waits, waiter: Waiter) -> list[Key]:
    """Of the places that this wait has to do with, all."""
    reached, ahead = {waiter.key}, [waiter.key]
    while ahead:
        key = ahead.pop()
        for hold in places.places.get(key, {}).values():
            blocked = waits.blocked((hold.client, hold.owner))
            if blocked is not None and blocked.key not in reached:
                reached.add(blocked.key)
                ahead.append(blocked.key)
    return list(reached)
