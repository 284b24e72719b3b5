"""What locks, counters, events and barriers are known by: who holds what, and values. The durable part. Pure.

A lock, a read-write lock and a semaphore are one thing: a place that one may hold alone, or several together. A token is
a number that no other hold of the pool had before: what nobody holds need not be remembered, and its tokens grow.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

LOCK, RWLOCK, SEMAPHORE = "lock", "rwlock", "semaphore"
COUNTER, EVENT, BARRIER = "counter", "event", "barrier"
HELD = (LOCK, RWLOCK, SEMAPHORE)
LEASE_S = 5.0  # of a client that is silent; it says that it is alive four times as often
ADD, PUT, GET, CHECK = "add", "put", "get", "check"  # what is done to a value
Key = tuple[str, str]  # (kind, name)


class Hold(msgspec.Struct, frozen=True, array_like=True):
    """Somebody has a place. number: under which the client asked. limit: how many may share it; 0: any number."""

    token: int
    client: int
    number: int
    kind: str
    name: str
    owner: str
    shared: bool
    limit: int

    @property
    def key(self) -> Key:
        """Which place."""
        return self.kind, self.name


class Replies(msgspec.Struct):
    """What a client may not have heard: answers by number. Up to `upto` it has heard all `but` these."""

    upto: int = 0
    but: tuple[int, ...] = ()
    answers: dict[int, int] = {}

    def over(self, number: int) -> bool:
        """Has it heard the answer to this? Then it is not asked again, whatever arrives late."""
        return number <= self.upto and number not in self.but

    def after(self, upto: int, but: tuple[int, ...]) -> Replies:
        """When it has heard more."""
        waits = set(but)
        answers = {n: value for n, value in self.answers.items() if n > upto or n in waits}
        return Replies(upto, but, answers)


class Passed(msgspec.Struct, frozen=True, array_like=True):
    """A barrier's past. generation: of those who come next."""

    generation: int
    at_s: float


class KeptPlaces(msgspec.Struct, array_like=True):
    """Places as they are written down."""

    token: int = 0
    holds: list[Hold] = []
    values: list[tuple[str, str, int]] = []
    barriers: dict[str, Passed] = {}
    replies: list[tuple[int, int, tuple[int, ...], list[tuple[int, int]]]] = []


class Places:
    """All that is held, and all values that are not 0. Changed by the fold of facts alone."""

    def __init__(self) -> None:
        self.token = 0  # the newest
        self.holds: dict[int, Hold] = {}  # by token
        self.places: dict[Key, dict[int, Hold]] = {}  # by token, in the order of granting; only those that are held
        self.mine: dict[int, dict[int, Hold]] = {}  # by client, and the number of asking
        self.values: dict[Key, int] = {}
        self.barriers: dict[str, Passed] = {}
        self.replies: dict[int, Replies] = {}  # by client

    def add(self, hold: Hold) -> None:
        """It is held."""
        self.token = max(self.token, hold.token)
        self.holds[hold.token] = hold
        self.places.setdefault(hold.key, {})[hold.token] = hold
        self.mine.setdefault(hold.client, {})[hold.number] = hold

    def remove(self, hold: Hold) -> None:
        """It is held no more."""
        del self.holds[hold.token]
        place, mine = self.places[hold.key], self.mine[hold.client]
        del place[hold.token], mine[hold.number]
        if not place:
            del self.places[hold.key]
        if not mine:
            del self.mine[hold.client]

    def put(self, key: Key, value: int) -> None:
        """A value; 0 is that of what was never used."""
        if value:
            self.values[key] = value
        else:
            self.values.pop(key, None)

    def answer(self, client: int, number: int, value: int) -> None:
        """Kept until the client has heard it: what it says again is not done again."""
        self.replies.setdefault(client, Replies()).answers[number] = value

    def heard(self, client: int, upto: int, but: tuple[int, ...]) -> None:
        """A client has these answers."""
        self.replies[client] = self.replies.get(client, Replies()).after(upto, but)

    def forget(self, client: int) -> None:
        """Nobody will ask for it again; it held nothing."""
        self.replies.pop(client, None)

    def freeze(self) -> KeptPlaces:
        """All of it, as plain records."""
        values = [(kind, name, value) for (kind, name), value in self.values.items()]
        replies = [
            (client, known.upto, known.but, list(known.answers.items())) for client, known in self.replies.items()
        ]
        return KeptPlaces(self.token, list(self.holds.values()), values, self.barriers, replies)


def thaw(kept: KeptPlaces) -> Places:
    """What `freeze` wrote so."""
    places = Places()
    for hold in kept.holds:
        places.add(hold)
    places.token = kept.token
    places.values = {(kind, name): value for kind, name, value in kept.values}
    places.barriers = kept.barriers
    places.replies = {client: Replies(upto, but, dict(answers)) for client, upto, but, answers in kept.replies}
    return places


def admits(held: Collection[bool], shared: bool, limit: int) -> bool:
    """May one more have a place? held: of each who has it, whether it shares it."""
    if not shared:
        return not held
    return (not limit or len(held) < limit) and all(held)
