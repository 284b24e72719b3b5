"""A simulated pool: the shipped decisions, driven by processes that behave as those of runtime/ and tasks/ do.

Decides nothing. What a slot, a node or a client says again after a reconnection is what the real one says again;
connections lose what is under way, processes die at any point, and the clock of the coordinator may jump.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from plesio.core.pool import coordinator as core
from plesio.core.pool import effects as e
from plesio.core.pool import facts as f
from plesio.core.pool import stimuli as s
from plesio.core.pool.state import Durable, Kept, apply, freeze, thaw
from plesio.core.pool.turn import Policies, State
from plesio.sim.poolpeers import Client, Node, Peer, Slot, Work
from plesio.sim.world import Killed, World
from plesio.wire import poolmessages as m

COMPACT_EVERY = 40  # batches

encode = msgspec.msgpack.Encoder().encode
decode_facts = msgspec.msgpack.Decoder(list[f.AnyFact]).decode
decode_kept = msgspec.msgpack.Decoder(Kept).decode


class Journal:
    """Committed batches since the last snapshot. Outlives the coordinator."""

    def __init__(self) -> None:
        self.batches: list[bytes] = []
        self.snapshot = encode(freeze(Durable()))

    def fold(self) -> Durable:
        """The state."""
        durable = thaw(decode_kept(self.snapshot))
        for batch in self.batches:
            for fact in decode_facts(batch):
                apply(durable, fact)
        return durable


class Connection:
    """Ordered both ways; what is under way when it breaks is lost. Either end notices in its own time."""

    def __init__(self, pool: Pool, peer: Any) -> None:
        self.pool, self.world, self.peer = pool, pool.world, peer
        self.host = pool.coordinator
        self.open = True
        self._arrives_s = {"up": 0.0, "down": 0.0}

    def _send(self, way: str, message: Any, deliver: Callable[[Any], None]) -> None:
        if not self.open:
            return
        body = m.encode(message)
        delay_s = self.pool.delay_s()
        at_s = self._arrives_s[way] = max(self._arrives_s[way], self.world.now_s + delay_s)
        self.world.at(at_s - self.world.now_s, self._deliver, deliver, m.decode("to" if way == "up" else "from", body))

    def _deliver(self, deliver: Callable[[Any], None], message: Any) -> None:
        if self.open:
            deliver(message)

    def up(self, message: Any) -> None:
        """To the coordinator."""
        self._send("up", message, lambda message: self.host.receive(self, message) if self.host else None)

    def down(self, message: Any) -> None:
        """To the peer."""
        self._send("down", message, lambda message: self.peer.receive(self, message))

    def cut(self) -> None:
        """It breaks."""
        if self.open:
            self.open = False
            rng = self.world.rng
            self.world.at(rng.choice((0.0, 0.01, 3.0)), self._closed)
            self.world.at(rng.choice((0.0, 0.01, 0.3)), self.peer.lost, self)

    def _closed(self) -> None:
        if self.host is not None and self.host.alive:
            self.host.closed(self)


class Coordinator:
    """One life of the coordinator, as runtime/pool.py."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.alive = True
        self.state = State(pool.journal.fold(), pool.policies)
        self.ahead_s = max(0.0, self.state.durable.latest_s - pool.raw_s())
        self.tables: dict[str, dict[str, Connection]] = {"client": {}, "slot": {}, "node": {}}
        self.speaks: dict[Connection, tuple[str, str]] = {}
        self.inbox: list[s.Stimulus] = []

    def start(self) -> None:
        """Recovers and serves."""
        core.recover(self.state, self.now_s())
        self.handle([s.TakeLead(self.state.durable.epoch + 1)])
        self._tick()

    def now_s(self) -> float:
        """On the pool's clock."""
        return self.pool.raw_s() + self.ahead_s

    def handle(self, batch: list[s.Stimulus]) -> None:
        """Decide, journal, act; in that order, and it may be killed in between."""
        pool, journal = self.pool, self.pool.journal
        now_s = max(self.now_s(), self.state.durable.latest_s)
        facts, effects = core.handle(self.state, self.now_s(), batch)
        pool.point()
        if facts:
            journal.batches.append(encode(facts))
            pool.committed(now_s, decode_facts(journal.batches[-1]))
            pool.point()
        pool.handled(now_s, self.state)
        for effect in effects:
            self._carry_out(effect)
            pool.point()
        if len(journal.batches) >= COMPACT_EVERY:
            journal.snapshot = encode(freeze(self.state.durable))
            journal.batches.clear()

    def _carry_out(self, effect: Any) -> None:
        self.pool.told[type(effect).__name__] += 1
        if isinstance(effect, (e.Run, e.Revoke, e.Disconnect)):
            connection = self.tables["slot"].get(effect.slot)
        elif isinstance(effect, e.StopTask):
            connection = self.tables["node"].get(effect.node)
        else:
            connection = self.tables["client"].get(effect.session)
        if connection is not None and isinstance(effect, e.Disconnect):
            connection.cut()
        elif connection is not None:
            connection.down(effect)

    def receive(self, connection: Connection, message: Any) -> None:
        """One of these turns of an event loop in which several things may arrive."""
        role = connection.peer.role
        m.check_role(role, message)
        if isinstance(message, (s.ClientUp, s.SlotUp, s.NodeUp)):
            name = getattr(message, {"client": "session"}.get(role, role))
            self.speaks[connection] = (name, getattr(message, "incarnation", ""))
            old = self.tables[role].get(name)
            self.tables[role][name] = connection
            if old is not None and old is not connection:
                self.speaks.pop(old, None)
                old.cut()
        self.take(message)

    def take(self, stimulus: s.Stimulus) -> None:
        """It will be handled, with what else comes until then."""
        if not self.inbox:
            self.pool.world.at(self.pool.world.rng.choice((0.0, 0.0, 0.002)), self._consume)
        self.inbox.append(stimulus)

    def _consume(self) -> None:
        if self.alive:
            batch, self.inbox = self.inbox, []
            self.handle(batch)

    def closed(self, connection: Connection) -> None:
        """A connection ended."""
        role = connection.peer.role
        name, incarnation = self.speaks.pop(connection, ("", ""))
        if name and self.tables[role].get(name) is connection:
            del self.tables[role][name]
            ends = {"client": s.ClientLost, "node": s.NodeLost}
            self.take(s.SlotLost(name, incarnation) if role == "slot" else ends[role](name))

    def _tick(self) -> None:
        if self.alive:
            now_s = self.now_s()
            wake_s = core.wake_s(self.state, now_s)
            pause_s = 0.25 if wake_s is None else min(0.25, max(0.005, wake_s - now_s))
            self.pool.world.at(pause_s, self._ticked, wake_s)

    def _ticked(self, wake_s: float | None) -> None:
        if self.alive and wake_s is not None and self.now_s() >= wake_s:
            self.take(s.Tick())
        self._tick()


class Pool:
    """All of it. `point` is called where a coordinator may die, `committed` and `handled` where a checker looks."""

    def __init__(self, seed: int, policies: Policies | None = None) -> None:
        self.world = World(seed)
        self.policies = policies or Policies()
        self.journal = Journal()
        self.works: dict[bytes, Work] = {}
        self.stubborn: set[int] = set()
        self.skew_s = 0.0
        self.slow = 1.0
        self.lives = 0
        self.told: Counter[str] = Counter()  # effects, by kind
        self.nodes: dict[str, Node] = {}
        self.clients: list[Client] = []
        self.coordinator: Coordinator | None = None
        self.deadly = 0.0  # probability that a point is the last one
        self.committed: Callable[[float, list[f.AnyFact]], None] = lambda now_s, facts: None
        self.handled: Callable[[float, State], None] = lambda now_s, state: None
        self.began: Callable[[int, Slot], None] = lambda id, slot: None

    def connection(self, peer: Peer) -> Connection:
        """A new one, to the coordinator that there is."""
        return Connection(self, peer)

    def raw_s(self) -> float:
        """The clock of the coordinator's machine."""
        return max(0.0, self.world.now_s + self.skew_s)

    def delay_s(self) -> float:
        """Of a message."""
        return self.world.rng.random() ** 4 * 0.02 * self.slow

    def is_stubborn(self, id: int) -> bool:
        """Does this task not stop when told to?"""
        call = self.coordinator and self.coordinator.state.durable.book.calls.get(id)
        work = self.works.get(call.args) if call else None
        return work is not None and work.stubborn

    def start_coordinator(self) -> None:
        """A new life, if there is none."""
        if self.coordinator is None:
            self.coordinator = Coordinator(self)
            self.coordinator.start()

    def point(self) -> None:
        """Here the coordinator may die."""
        if self.deadly and self.world.rng.random() < self.deadly:
            self.kill_coordinator()
            raise Killed

    def kill_coordinator(self) -> None:
        """It comes back a little later."""
        dead, self.coordinator = self.coordinator, None
        if dead is not None:
            dead.alive = False
            for connection in list(dead.speaks):
                connection.cut()
            for peer in self.peers():
                if peer.connection is not None:
                    peer.connection.cut()
            self.world.at(self.world.rng.choice((0.01, 0.3, 1.0)), self.start_coordinator)

    def start_node(self, name: str, slots: int, tags: tuple[tuple[str, float], ...]) -> None:
        """A new life of a machine."""
        self.nodes[name] = Node(self, name, slots, tags)

    def slots(self) -> list[Slot]:
        """Processes that are alive."""
        return [slot for node in self.nodes.values() if node.alive for slot in node.slots.values() if slot is not None]

    def peers(self) -> list[Peer]:
        """All that may be connected."""
        return [*self.clients, *(node for node in self.nodes.values() if node.alive), *self.slots()]
