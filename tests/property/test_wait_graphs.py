"""A wait is refused exactly when it could never be granted, whoever gives back what: told by trying everything."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from plesio.core.pool import coordinator as core
from plesio.core.pool import effects as e
from plesio.core.pool import stimuli as s
from plesio.core.pool.places import LOCK, RWLOCK, SEMAPHORE
from plesio.core.pool.turn import State

GRAPHS = 1000
SESSIONS = ("ann " * 4, "ben " * 4)
Owner = tuple[int, str]
Place = tuple[int, tuple[tuple[Owner, bool], ...], tuple[tuple[Owner, bool], ...]]  # limit, who holds, who waits


def granted(place: Place) -> Place:
    """First come, first served; many who share, up to the limit (0: any), or one alone."""
    limit, held, line = place
    while line:
        owner, shared = line[0]
        alone = any(not other for _, other in held)
        if alone or (held and not shared) or (shared and limit and len(held) >= limit):
            break
        held, line = (*held, (owner, shared)), line[1:]
    return limit, held, line


def could_be_granted(places: tuple[Place, ...], owner: Owner, seen: set[tuple[Place, ...]] | None = None) -> bool:
    """Is there any way in which those who wait for nothing give back, one thing at a time, that ends its wait?"""
    seen = set() if seen is None else seen
    if places in seen:
        return False
    seen.add(places)
    waiting = {who for _, _, line in places for who, _ in line}
    if owner not in waiting:
        return True
    for i, (limit, held, line) in enumerate(places):
        for j, (who, _) in enumerate(held):
            if who not in waiting:
                after = granted((limit, held[:j] + held[j + 1 :], line))
                if could_be_granted((*places[:i], after, *places[i + 1 :]), owner, seen):
                    return True
    return False


class Graph:
    """A pool, and beside it the plainest account of who holds and who waits."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.state, self.numbers = State(), 0
        core.handle(self.state, 0.0, [s.TakeLead(1), *(s.ClientUp(session) for session in SESSIONS)])
        kinds = [rng.choice((LOCK, RWLOCK, SEMAPHORE)) for _ in range(rng.randint(1, 4))]
        self.kinds = [(kind, {LOCK: 1, RWLOCK: 0}.get(kind, rng.randint(1, 3))) for kind in kinds]
        self.places: list[Place] = [(limit, (), ()) for _, limit in self.kinds]
        self.owners = [(rng.randint(1, 2), f"o{i}") for i in range(rng.randint(1, 5))]
        self.held: list[tuple[int, Owner, int]] = []  # (number, owner, place), as they were asked for
        self.verdicts: Counter[str] = Counter()

    def step(self) -> None:
        waiting = {who for _, _, line in self.places for who, _ in line}
        free = [owner for owner in self.owners if owner not in waiting]
        if free:
            owner = self.rng.choice(free)
            mine = [one for one in self.held if one[1] == owner]
            if mine and self.rng.random() < 0.2:
                self.release(self.rng.choice(mine))
            else:
                self.want(owner, self.rng.randrange(len(self.places)))
        self.compare()

    def say(self, message: Any) -> list[e.Effect]:
        return core.handle(self.state, 0.0, [message])[1]

    def want(self, owner: Owner, at: int) -> None:
        kind, limit = self.kinds[at]
        shared = kind == SEMAPHORE or (kind == RWLOCK and self.rng.random() < 0.5)
        self.numbers += 1
        message = s.Want(SESSIONS[owner[0] - 1], self.numbers, kind, str(at), owner[1], shared, limit)
        refused = any(isinstance(x, e.Refuse) and x.why == e.DEADLOCK for x in self.say(message))
        _, held, line = self.places[at]
        after = granted((limit, held, (*line, (owner, shared))))
        waits = any(who == owner for who, _ in after[2])
        hopeless = not could_be_granted((*self.places[:at], after, *self.places[at + 1 :]), owner)
        assert refused == hopeless, f"{owner} for {self.kinds[at]} {at}: {self.places}"
        self.verdicts["refused" if refused else "waits" if waits else "granted"] += 1
        if not refused:
            self.places[at] = after
            self.held.append((self.numbers, owner, at))

    def release(self, one: tuple[int, Owner, int]) -> None:
        number, owner, at = one
        self.numbers += 1
        self.say(s.Release(SESSIONS[owner[0] - 1], self.numbers, number))
        self.held.remove(one)
        limit, held, line = self.places[at]
        shared = next(shared for who, shared in held if who == owner)
        held_now = list(held)
        held_now.remove((owner, shared))
        self.places[at] = granted((limit, tuple(held_now), line))

    def compare(self) -> None:
        durable, waits = self.state.durable.places, self.state.volatile.waits
        for at, (kind, _) in enumerate(self.kinds):
            holds = durable.places.get((kind, str(at)), {}).values()
            assert sorted(((x.client, x.owner), x.shared) for x in holds) == sorted(self.places[at][1])
            assert [(x.who, x.shared) for x in waits.line((kind, str(at)))] == list(self.places[at][2])


def test_of_random_wait_graphs_exactly_the_deadlocks_are_refused() -> None:
    verdicts: Counter[str] = Counter()
    for seed in range(GRAPHS):
        graph = Graph(random.Random(seed))
        for _ in range(25):
            graph.step()
        verdicts += graph.verdicts
    assert min(verdicts[word] for word in ("refused", "waits", "granted")) > GRAPHS, verdicts
