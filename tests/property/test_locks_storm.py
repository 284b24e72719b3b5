"""Locks, counters and barriers under lost and repeated messages, jumping clocks, deaths and restarts: the shipped two sides.

Seeded, not drawn by hypothesis: most of what it does must be ordinary for anybody to wait for anything.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from typing import Any

import msgspec

from plesio.core.pool import coordinator as core
from plesio.core.pool import effects as e
from plesio.core.pool import facts as f
from plesio.core.pool import stimuli as s
from plesio.core.pool.grants import HEARD, Grants
from plesio.core.pool.places import ADD, BARRIER, COUNTER, HELD, LEASE_S, LOCK, PUT, RWLOCK, SEMAPHORE, admits
from plesio.core.pool.state import Durable, Kept, apply, freeze, thaw
from plesio.core.pool.turn import State
from plesio.wire import poolmessages as m

STORMS, STEPS = 150, 150
CLIENTS = 3
ACTIONS = {
    "want": 10, "give_up": 2, "release": 6, "add": 3, "swap": 3, "arrive_again": 2, "cut": 1, "connect": 2, "time_passes": 2,
    "restart": 0.3,
}  # fmt: skip
PLACES = (
    ("a", LOCK, False, 1),
    ("b", LOCK, False, 1),
    ("r", RWLOCK, True, 0),
    ("r", RWLOCK, False, 0),
    ("s", SEMAPHORE, True, 2),
    ("m", BARRIER, True, 2),
    ("m", BARRIER, True, 2),
)

encode = msgspec.msgpack.Encoder().encode
decode_facts = msgspec.msgpack.Decoder(list[f.AnyFact]).decode
decode_kept = msgspec.msgpack.Decoder(Kept).decode


class Client:
    """A program with one thread: waits for one thing at a time. up, down: what is under way."""

    def __init__(self, index: int) -> None:
        self.session = f"client {index} " * 2
        self.grants = Grants(self.session)
        self.online = False
        self.up: deque[Any] = deque()
        self.down: deque[Any] = deque()
        self.before: list[Any] = []  # what arrived over this connection
        self.waits, self.kind = 0, ""  # the number of what it waits for
        self.withdraws = 0  # the number under which it gives that up
        self.passed: list[int] = []  # times at the barrier
        self.held: list[int] = []
        self.added = 0
        self.swaps, self.value = 0, 0

    def say(self, message: Any) -> None:
        if message is not None and self.online:
            self.up.append(message)

    def connect(self) -> list[Any]:
        self.online = True
        self.up, self.down, self.before = deque(self.grants.resend()), deque(), []
        return [s.ClientUp(self.session)]

    def read(self) -> None:
        message = self.down.popleft()
        if isinstance(message, e.Lapsed):
            self.up.extend(self.grants.lapsed())
        elif isinstance(message, (e.Granted, e.Answer, e.Refuse)):
            self.say(self.grants.receive(message))
        if self.swaps and self.grants.arrived(self.swaps):
            answer = self.grants.take(self.swaps)
            assert isinstance(answer, e.Answer)
            self.swaps, self.value = 0, self.value + answer.ok
        if self.withdraws and self.grants.arrived(self.withdraws):
            self.grants.take(self.withdraws)
            self.withdraws = 0
            if not self.grants.arrived(self.waits):
                assert self.grants.give_up(self.waits) is None, "it is withdrawn"
                self.waits = 0
        if self.waits and not self.withdraws and self.grants.arrived(self.waits):
            outcome = self.grants.take(self.waits)
            assert not isinstance(outcome, e.Refuse) or outcome.why in (e.DEADLOCK, e.BUSY), outcome
            if isinstance(outcome, e.Granted):
                self.held.append(self.waits)
            if isinstance(outcome, e.Answer):
                self.passed.append(outcome.value)
            self.waits = 0


class Storm:
    """Drives both sides, and folds the facts beside them."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.seen = rng, Counter[str]()
        self.state, self.folded = State(), Durable()
        self.now_s = 100.0
        self.token = 0
        self.passed: list[tuple[int, str]] = []  # times at the barrier, and who was there
        self.clients = [Client(i) for i in range(CLIENTS)]
        self.give(s.TakeLead(1))
        for client in self.clients:
            self.give(*client.connect())

    def give(self, *batch: Any) -> None:
        before = {key: list(line.values()) for key, line in self.state.volatile.waits.queues.items()}
        facts, effects = core.handle(self.state, self.now_s, [m.decode("to", m.encode(one)) for one in batch])
        self.seen.update(type(one).__name__ for one in (*facts, *effects))
        self.seen["waits"] += bool(self.state.volatile.waits.tickets)
        for fact in decode_facts(encode(facts)):
            apply(self.folded, fact)
            if isinstance(fact, f.PlaceTaken):
                self.check_grant(fact, before)
            elif isinstance(fact, f.BarrierPassed):
                self.check_barrier(fact)
        for effect in effects:
            message = m.decode("from", m.encode(effect))
            for client in self.clients:
                if client.session == effect.session and client.online:
                    client.down.append(message)

    def check_grant(self, fact: f.PlaceTaken, before: dict[Any, list[Any]]) -> None:
        hold = fact.hold
        assert hold.token > self.token, "tokens grow"
        self.token = hold.token
        session = self.folded.sessions[hold.client]
        assert session in self.state.volatile.online, "it is granted to one that is there"
        line = before.get(hold.key, [])
        tickets = self.state.volatile.waits.tickets
        earlier = line[
            : next((i for i, w in enumerate(line) if w.client == hold.client and w.number == hold.number), len(line))
        ]
        assert not any((w.session, w.number) in tickets for w in earlier), "nobody is passed over"

    def check_barrier(self, fact: f.BarrierPassed) -> None:
        waiting = {client.session: client.waits for client in self.clients}
        for client, number in fact.parties:
            session = self.folded.sessions[client]
            assert waiting[session] == number, "nobody goes on with one that was refused, or has given up"
            self.passed.append((fact.generation, session))

    def step(self) -> None:
        """Something happens; most of the time what was said arrives soon."""
        action = self.rng.choices(list(ACTIONS), list(ACTIONS.values()))[0]
        getattr(self, action)(self.rng.randrange(CLIENTS))
        for i in range(CLIENTS):
            if self.rng.random() < 0.7:
                self.arrive(i, 5)
            if self.rng.random() < 0.7:
                self.read(i, 5)
        for check in (self.nobody_holds_what_another_does, self.the_state_is_the_fold_of_its_facts,
                      self.whoever_holds_or_waits_has_a_lease, self.the_first_in_line_has_somebody_in_its_way):  # fmt: skip
            check()

    # -- what programs do

    def want(self, i: int) -> None:
        client, (name, kind, shared, limit) = self.clients[i], self.rng.choice(PLACES)
        if not client.waits:
            said = client.grants.want(kind, name, "main", shared, limit, self.rng.random() < 0.8)
            client.waits, client.kind = said.number, kind
            client.say(said)

    def give_up(self, i: int) -> None:
        client = self.clients[i]
        if client.waits and client.kind == BARRIER:
            if not client.withdraws:
                said = client.grants.release(client.waits)
                client.withdraws = said.number
                client.say(said)
        elif client.waits:
            client.say(client.grants.give_up(client.waits))
            client.waits = 0

    def release(self, i: int) -> None:
        client = self.clients[i]
        if client.held:
            client.say(client.grants.release(client.held.pop(self.rng.randrange(len(client.held)))))

    def add(self, i: int) -> None:
        client = self.clients[i]
        client.say(client.grants.change(COUNTER, "n", ADD, 1))
        client.added += 1

    def swap(self, i: int) -> None:
        """Of a counter of its own: what it is told is what it is."""
        client = self.clients[i]
        if not client.swaps:
            said = client.grants.change(
                COUNTER, client.session, PUT, client.value + 1, client.value + self.rng.randrange(2)
            )
            client.swaps = said.number
            client.say(said)

    # -- what happens to them

    def arrive(self, i: int, count: int) -> None:
        client = self.clients[i]
        batch = [client.up.popleft() for _ in range(min(count, len(client.up)))]
        client.before += batch
        if batch:
            self.give(*batch)

    def arrive_again(self, i: int) -> None:
        client = self.clients[i]
        if client.before and client.online:
            self.give(self.rng.choice(client.before))

    def read(self, i: int, count: int) -> None:
        client = self.clients[i]
        for _ in range(min(count, len(client.down))):
            client.read()

    def cut(self, i: int) -> None:
        client = self.clients[i]
        if client.online:
            client.online = False
            client.up.clear()
            client.down.clear()
            self.give(s.ClientLost(client.session))

    def connect(self, i: int) -> None:
        if not self.clients[i].online or self.rng.random() < 0.2:  # the pool has not noticed that the old one broke
            self.give(*self.clients[i].connect())

    def time_passes(self, i: int) -> None:
        """All are heard of meanwhile, or one is not."""
        self.now_s = max(1.0, self.now_s + self.rng.choice((0.2, 1.0, 1.0, 3.0, 3.0, 6.0, 1000.0, -1000.0)))
        for j, client in enumerate(self.clients):
            if j != i:
                for message in client.grants.due(self.now_s):
                    client.say(message)
                if self.rng.random() < 0.9:
                    self.arrive(j, 1000)
        self.give(s.Tick())

    def restart(self, _: int) -> None:
        for client in self.clients:
            client.online = False
            client.up.clear()
            client.down.clear()
        self.state = State(thaw(decode_kept(encode(freeze(self.folded)))))
        core.recover(self.state, self.now_s)
        self.give(s.TakeLead(self.folded.epoch + 1))

    # -- what always holds

    def nobody_holds_what_another_does(self) -> None:
        for place in self.state.durable.places.places.values():
            holds = list(place.values())
            for i, hold in enumerate(holds):
                assert admits([other.shared for other in holds[:i]], hold.shared, hold.limit)

    def the_state_is_the_fold_of_its_facts(self) -> None:
        assert encode(freeze(self.state.durable)) == encode(freeze(self.folded))

    def whoever_holds_or_waits_has_a_lease(self) -> None:
        alive_s, waits = self.state.volatile.alive_s, self.state.volatile.waits
        assert set(self.state.durable.places.mine) <= set(alive_s)
        assert {waiter.client for waiter in waits.tickets.values()} <= set(alive_s)

    def the_first_in_line_has_somebody_in_its_way(self) -> None:
        for key, line in self.state.volatile.waits.queues.items():
            first, place = next(iter(line.values())), self.state.durable.places.places.get(key, {})
            assert key[0] not in HELD or not admits([hold.shared for hold in place.values()], first.shared, first.limit)

    def end(self) -> None:
        """In the end everybody who lives has what it waits for, and each change was made once."""
        for i in range(CLIENTS):
            self.connect(i)
        for _ in range(40):
            self.now_s += LEASE_S / 5
            for i, client in enumerate(self.clients):
                while client.held:
                    self.release(i)
                if client.kind == BARRIER:
                    self.give_up(i)
                for message in client.grants.due(self.now_s):
                    client.say(message)
                self.arrive(i, 1000)
                self.read(i, 1000)
            self.give(s.Tick())
        assert not any(client.waits or client.swaps or client.up or client.grants.settling() for client in self.clients)
        assert not self.state.durable.places.holds and not self.state.volatile.waits.tickets
        assert self.state.durable.places.values.get((COUNTER, "n"), 0) == sum(client.added for client in self.clients)
        for client in self.clients:
            assert self.state.durable.places.values.get((COUNTER, client.session), 0) == client.value
        assert sorted(self.passed) == sorted((t, client.session) for client in self.clients for t in client.passed)
        assert [t for t, _ in self.passed] == [i // 2 for i in range(len(self.passed))], "two each time"
        assert max(len(replies.answers) for replies in self.state.durable.places.replies.values()) <= 2 * HEARD


def test_locks_hold_what_they_promise_in_any_storm() -> None:
    seen: Counter[str] = Counter()
    for seed in range(STORMS):
        storm = Storm(random.Random(seed))
        for _ in range(STEPS):
            storm.step()
        storm.end()
        seen += storm.seen
    facts = ("PlaceTaken", "PlaceReleased", "PlacesLost", "ValueSet", "BarrierPassed", "AnswersHeard")
    words = (*facts, "Lapsed", "Refuse", "waits")
    assert min(seen[word] for word in words) > STORMS, seen
