"""The simulated coordinator process: drives the shipped core as the runtime does. Journal first, then effects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from plesio.core import coordinator as core
from plesio.core import effects as e
from plesio.core import facts as f
from plesio.core import stimuli as s
from plesio.core.spec import RunSpec
from plesio.core.state import Durable, apply
from plesio.core.turn import State
from plesio.sim.network import Connection, Network
from plesio.sim.world import Process, World

_encode = msgspec.msgpack.Encoder().encode
_decode_facts = msgspec.msgpack.Decoder(list[f.AnyFact]).decode
_decode_state = msgspec.msgpack.Decoder(Durable).decode
_decode_effect = msgspec.msgpack.Decoder(e.AnyEffect).decode

COMPACT_EVERY = 200  # batches; so few that short runs do it too

Point = Callable[[Process, str], None]  # a place where a process may be killed


class Journal:
    """Committed batches since the last snapshot of the state. Outlives the coordinator; tells a listener of each commit."""

    def __init__(self, on_commit: Callable[[list[f.Fact]], None]) -> None:
        self.batches: list[bytes] = []
        self.snapshot = _encode(Durable())
        self.on_commit = on_commit

    @property
    def size_bytes(self) -> int:
        """Of all that it keeps."""
        return len(self.snapshot) + sum(map(len, self.batches))

    def commit(self, facts: list[f.Fact]) -> None:
        """Durable from here on."""
        self.batches.append(_encode(facts))
        self.on_commit(list(_decode_facts(self.batches[-1])))

    def fold(self) -> Durable:
        """The state."""
        durable = _decode_state(self.snapshot)
        for batch in self.batches:
            for fact in _decode_facts(batch):
                apply(durable, fact)
        return durable

    def compact(self, durable: Durable) -> None:
        """Now and then the batches are replaced by the state that they make."""
        if len(self.batches) >= COMPACT_EVERY:
            self.snapshot, self.batches = _encode(durable), []


class SimCoordinator(Process):
    """One life of the coordinator."""

    def __init__(self, world: World, network: Network, journal: Journal, spec: RunSpec, epoch: int, point: Point):
        super().__init__(world, "coordinator")
        self.network = network
        self.journal = journal
        self.spec = spec
        self.epoch = epoch
        self.point = point
        self.state = State()
        self.peers: dict[str, Connection] = {}
        self.after: Callable[[SimCoordinator], None] = lambda _: None

    def start(self) -> None:
        """Recovers and serves."""
        self.state.durable = self.journal.fold()
        effects = core.recover(self.state, self.world.now_s)
        self.network.listening["coordinator"] = self
        self.handle(s.TakeLead(self.epoch))
        self.handle(s.StartRun(self.spec))
        self.carry_out(effects)
        self._tick()

    def handle(self, stimulus: s.Stimulus) -> None:
        """Decide, journal, act; in that order."""
        facts, effects = core.handle(self.state, self.world.now_s, stimulus)
        self.point(self, "before commit")
        if facts:
            self.journal.commit(facts)
            self.point(self, "after commit")
            self.journal.compact(self.state.durable)
        self.after(self)
        self.carry_out(effects)

    def carry_out(self, effects: list[e.Effect]) -> None:
        """Each may be the last one before the process dies."""
        for effect in effects:
            self._send_all(_decode_effect(_encode(effect)))
            self.point(self, "after effect")

    def _send_all(self, effect: Any) -> None:
        if isinstance(effect, e.EndRun):
            for name in list(self.peers):
                self._send(name, effect)
        elif isinstance(effect, e.TO_SYNCHRONIZER):
            self._send("synchronizer", effect)
        else:
            self._send(effect.to, effect)
            if isinstance(effect, e.AnswerPush):
                self._send("synchronizer", effect)

    def _send(self, name: str, effect: e.Effect) -> None:
        if name in self.peers:
            self.peers[name].send(self, effect)

    def receive(self, connection: Connection, message: Any, payload: Any) -> None:
        name = connection.client.name
        old = self.peers.get(name)
        if old is not connection:
            self.peers[name] = connection
            if old is not None:
                old.abort()
        self.handle(message)

    def lost(self, connection: Connection) -> None:
        if self.peers.get(connection.client.name) is connection:
            del self.peers[connection.client.name]

    def _tick(self) -> None:
        now_s = self.world.now_s
        wake_s = core.wake_s(self.state, now_s)
        pause_s = 0.25 if wake_s is None else min(0.25, max(0.005, wake_s - now_s))
        self.later(pause_s, self._ticked, wake_s)

    def _ticked(self, wake_s: float | None) -> None:
        if wake_s is not None and self.world.now_s >= wake_s:
            self.handle(s.Tick())
        self._tick()
