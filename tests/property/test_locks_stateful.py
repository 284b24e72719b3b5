"""Locks and counters under lost and repeated messages, jumping clocks, dead clients and restarts: the shipped two sides."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from plesio.core.pool import coordinator as core
from plesio.core.pool import effects as e
from plesio.core.pool import facts as f
from plesio.core.pool import stimuli as s
from plesio.core.pool.grants import Grants
from plesio.core.pool.places import ADD, COUNTER, HELD, LEASE_S, LOCK, RWLOCK, SEMAPHORE, admits
from plesio.core.pool.state import Durable, Kept, apply, freeze, thaw
from plesio.core.pool.turn import State
from plesio.wire import poolmessages as m

CLIENTS = 3
PLACES = (
    ("a", LOCK, False, 1),
    ("b", LOCK, False, 1),
    ("r", RWLOCK, True, 0),
    ("r", RWLOCK, False, 0),
    ("s", SEMAPHORE, True, 2),
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
        self.waits = 0  # the number of what it waits for
        self.held: list[int] = []
        self.added = 0

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
        if self.waits and self.grants.arrived(self.waits):
            outcome = self.grants.take(self.waits)
            assert not isinstance(outcome, e.Refuse) or outcome.why in (e.DEADLOCK, e.BUSY), outcome
            if isinstance(outcome, e.Granted):
                self.held.append(self.waits)
            self.waits = 0


class Storm(RuleBasedStateMachine):
    """Drives both sides, and folds the facts beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.folded = State(), Durable()
        self.now_s = 100.0
        self.token = 0
        self.clients = [Client(i) for i in range(CLIENTS)]
        self.give(s.TakeLead(1))
        for client in self.clients:
            self.give(*client.connect())

    def give(self, *batch: Any) -> None:
        before = {key: list(line.values()) for key, line in self.state.volatile.waits.queues.items()}
        facts, effects = core.handle(self.state, self.now_s, [m.decode("to", m.encode(one)) for one in batch])
        for fact in decode_facts(encode(facts)):
            apply(self.folded, fact)
            if isinstance(fact, f.PlaceTaken):
                self.check_grant(fact, before)
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

    # -- what programs do

    @rule(i=st.integers(0, CLIENTS - 1), place=st.sampled_from(PLACES), wait=st.booleans())
    def want(self, i: int, place: tuple[str, str, bool, int], wait: bool) -> None:
        client, (name, kind, shared, limit) = self.clients[i], place
        if not client.waits:
            said = client.grants.want(kind, name, "main", shared, limit, wait)
            client.waits = said.number
            client.say(said)

    @rule(i=st.integers(0, CLIENTS - 1))
    def give_up(self, i: int) -> None:
        client = self.clients[i]
        if client.waits:
            client.say(client.grants.give_up(client.waits))
            client.waits = 0

    @rule(i=st.integers(0, CLIENTS - 1), newest=st.booleans())
    def release(self, i: int, newest: bool) -> None:
        client = self.clients[i]
        if client.held:
            client.say(client.grants.release(client.held.pop(-1 if newest else 0)))

    @rule(i=st.integers(0, CLIENTS - 1))
    def add(self, i: int) -> None:
        client = self.clients[i]
        client.added += 1
        client.say(client.grants.change(COUNTER, "n", ADD, 1))

    # -- what happens to them

    @rule(i=st.integers(0, CLIENTS - 1), count=st.integers(1, 5))
    def arrive(self, i: int, count: int) -> None:
        client = self.clients[i]
        batch = [client.up.popleft() for _ in range(min(count, len(client.up)))]
        client.before += batch
        if batch:
            self.give(*batch)

    @rule(i=st.integers(0, CLIENTS - 1), which=st.integers(0, 99))
    def arrive_again(self, i: int, which: int) -> None:
        client = self.clients[i]
        if client.before and client.online:
            self.give(client.before[which % len(client.before)])

    @rule(i=st.integers(0, CLIENTS - 1), count=st.integers(1, 5))
    def read(self, i: int, count: int) -> None:
        client = self.clients[i]
        for _ in range(min(count, len(client.down))):
            client.read()

    @rule(i=st.integers(0, CLIENTS - 1))
    def cut(self, i: int) -> None:
        client = self.clients[i]
        if client.online:
            client.online = False
            client.up.clear()
            client.down.clear()
            self.give(s.ClientLost(client.session))

    @rule(i=st.integers(0, CLIENTS - 1))
    def connect(self, i: int) -> None:
        if not self.clients[i].online:
            self.give(*self.clients[i].connect())

    @rule(seconds=st.sampled_from((0.2, 1.0, 3.0, 6.0, 1000.0, -1000.0)), heard=st.booleans())
    def time_passes(self, seconds: float, heard: bool) -> None:
        self.now_s = max(1.0, self.now_s + seconds)
        for client in self.clients if heard else ():
            for message in client.grants.due(self.now_s):
                client.say(message)
        self.give(s.Tick())

    @rule()
    def restart(self) -> None:
        for client in self.clients:
            client.online = False
            client.up.clear()
            client.down.clear()
        self.state = State(thaw(decode_kept(encode(freeze(self.folded)))))
        core.recover(self.state, self.now_s)
        self.give(s.TakeLead(self.folded.epoch + 1))

    # -- what always holds

    @invariant()
    def nobody_holds_what_another_does(self) -> None:
        for place in self.state.durable.places.places.values():
            holds = list(place.values())
            for i, hold in enumerate(holds):
                assert admits([other.shared for other in holds[:i]], hold.shared, hold.limit)

    @invariant()
    def the_state_is_the_fold_of_its_facts(self) -> None:
        assert encode(freeze(self.state.durable)) == encode(freeze(self.folded))

    @invariant()
    def whoever_holds_or_waits_has_a_lease(self) -> None:
        alive_s, waits = self.state.volatile.alive_s, self.state.volatile.waits
        assert set(self.state.durable.places.mine) <= set(alive_s)
        assert {waiter.client for waiter in waits.tickets.values()} <= set(alive_s)

    @invariant()
    def the_first_in_line_has_somebody_in_its_way(self) -> None:
        for key, line in self.state.volatile.waits.queues.items():
            first, place = next(iter(line.values())), self.state.durable.places.places.get(key, {})
            assert key[0] not in HELD or not admits([hold.shared for hold in place.values()], first.shared, first.limit)

    def teardown(self) -> None:
        """In the end everybody who lives has what it waits for, and each change was made once."""
        for i in range(CLIENTS):
            self.connect(i)
        for _ in range(40):
            self.now_s += LEASE_S / 5
            for i, client in enumerate(self.clients):
                while client.held:
                    self.release(i, True)
                for message in client.grants.due(self.now_s):
                    client.say(message)
                self.arrive(i, 1000)
                self.read(i, 1000)
            self.give(s.Tick())
        assert not any(client.waits or client.up or client.grants.settling() for client in self.clients)
        assert not self.state.durable.places.holds and not self.state.volatile.waits.tickets
        assert self.state.durable.places.values.get((COUNTER, "n"), 0) == sum(client.added for client in self.clients)


TestStorm = Storm.TestCase
TestStorm.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
