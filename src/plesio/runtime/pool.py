"""The coordinator of a pool: the I/O driver of core/pool. It decides nothing: it journals facts and carries out effects.

What arrives in one turn of the event loop is one batch and one commit. It may be killed at any instruction.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
from collections.abc import Coroutine
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from plesio.clock import Clock
from plesio.core.membership import Listening
from plesio.core.pool import coordinator as core
from plesio.core.pool import effects as e
from plesio.core.pool import facts as f
from plesio.core.pool import stimuli as s
from plesio.core.pool.state import Durable
from plesio.core.pool.turn import Policies, State
from plesio.errors import InternalError, WireError
from plesio.runtime.journal import POOL, Journal
from plesio.runtime.poolview import answer
from plesio.runtime.segments import Segments, shares_in
from plesio.stores.sqlite import SqliteStore
from plesio.wire import channel as wire
from plesio.wire import poolmessages as m
from plesio.wire import server as serving
from plesio.wire.frames import Limits
from plesio.wire.tls import Tls

T = TypeVar("T")
LIMITS = {  # what each role may announce, once it is authenticated
    "client": Limits(256 << 20, 0),
    "slot": Limits(256 << 20, 0),
    "node": Limits(1 << 20, 0),
}
ACCEPT_S = 0.002  # how long a confirmation waits for a message that it may travel with
IDLE_S = 1.0  # an embedded pool ends so long after its last client


def inline(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits: our store appends within the event loop's turn."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise InternalError("the store waits for something; it cannot be used inline")


class PoolClock:
    """Seconds that go on where the journal's ended: those of facts only grow, also over a reboot."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.ahead_s = 0.0

    def start_at(self, seconds: float) -> None:
        """Now it is this late, at least."""
        self.ahead_s = max(0.0, seconds - self.clock.now_s())

    def now_s(self) -> float:
        """Seconds on this clock."""
        return self.clock.now_s() + self.ahead_s


class Pool:
    """Owns the state, the journal and the channels of clients, nodes and slots.

    embedded: it ends by itself when its last client is gone.
    """

    def __init__(
        self,
        folder: Path,
        token: str,
        clock: Clock,
        tls: Tls | None,
        sync: Literal["normal", "full"],
        embedded: bool,
        policies: Policies | None = None,
    ) -> None:
        self.folder = folder
        self.token = token
        self.tls = tls
        self.sync = sync
        self.embedded = embedded
        self.clock = PoolClock(clock)
        self.state = State(policies=policies)
        self.journal: Journal[f.AnyFact, Durable] | None = None
        self.clients: dict[str, wire.Channel] = {}  # by session
        self.slots: dict[str, wire.Channel] = {}
        self.nodes: dict[str, wire.Channel] = {}
        self.segments = Segments(shares_in(folder))
        self.near: set[wire.Channel] = set()  # who reads segments
        self.speaks: dict[wire.Channel, tuple[str, str]] = {}  # who: (name or session, incarnation)
        self.inbox: list[s.Stimulus] = []
        self.questions: list[tuple[wire.Channel, m.Ask]] = []
        self.outbox: dict[wire.Channel, list[bytes]] = {}
        self.later: dict[wire.Channel, list[bytes]] = {}  # what waits a moment for company
        self.failure: Exception | None = None
        self.stopping = asyncio.Event()
        self.listening = Listening()

    async def run(self, listener: socket.socket, local: socket.socket | None = None) -> None:
        """Recovers, serves on both, and returns when told to stop. local: a Unix socket."""
        store = SqliteStore(self.folder / "journal.db", self.sync)
        await store.open()
        epoch = await store.elect(f"pid-{os.getpid()}", 0.0, time.time())
        self.journal = Journal(store, epoch, POOL)
        gc.disable()  # millions of records come to stay
        durable, _ = await self.journal.load()
        self.state.durable = durable
        gc.freeze()
        gc.enable()
        gc.set_threshold(50_000, 20, 100)
        self.clock.start_at(durable.latest_s)
        core.recover(self.state, self.clock.now_s())
        self.segments.recover(durable.book)
        self._handle([s.TakeLead(epoch)])
        server = await serving.serve(
            listener,
            token=self.token,
            on_channel=self._on_channel,
            on_message=self._on_message,
            on_close=self._on_close,
            on_refused=self._on_refused,
            tls=self.tls,
        )
        if local is not None:
            await server.listen_also(local)
        tasks = [asyncio.create_task(work) for work in (self._tick(), self.stopping.wait())]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await server.close()
        await store.close()
        for task in done:
            task.result()
        if self.failure is not None:
            raise self.failure

    def _flush(self) -> None:
        """All that has come, as one batch. An error ends the process: what the state says may not be durable."""
        if self.failure is not None:
            return
        try:
            while self.inbox or self.questions:
                batch, self.inbox = self.inbox, []
                questions, self.questions = self.questions, []
                if batch:
                    self._handle(batch)
                for channel, question in questions:  # they see what was said before them, and only what is durable
                    self._put(channel, answer(self.state, question))
        except Exception as error:  # a process edge: asyncio would go on
            self.failure = error
            self.stopping.set()
        self._send_all()

    def _handle(self, batch: list[s.Stimulus]) -> None:
        """One batch: decide, journal, act; in that order."""
        assert self.journal is not None
        facts, effects = core.handle(self.state, self._awake(), batch)
        if facts:
            inline(self.journal.commit(time.time(), facts))
            self.segments.follow(facts, batch)
        for effect in effects:
            self._carry_out(effect)
        if facts:
            inline(self.journal.compact_by_size(self.state.durable))

    def _carry_out(self, effect: e.Effect) -> None:
        if isinstance(effect, e.Disconnect):
            if effect.slot in self.slots:
                self.slots[effect.slot].abort()
            return
        if isinstance(effect, e.TO_SLOT):
            channel = self.slots.get(effect.slot)
        elif isinstance(effect, e.TO_CLIENT):
            channel = self.clients.get(effect.session)
        else:
            assert isinstance(effect, e.StopTask)
            channel = self.nodes.get(effect.node)
        if channel is None:
            return
        if isinstance(effect, e.Accept) and not effect.soon:  # the result, or something else, is likely to follow
            if not self.later:
                asyncio.get_running_loop().call_later(ACCEPT_S, self._send_later)
            self.later.setdefault(channel, []).append(m.encode(effect))
            return
        self._put(channel, effect if channel in self.near else self.segments.for_far(effect))

    def _put(self, channel: wire.Channel, message: msgspec.Struct) -> None:
        """Sent together with all else that this batch has for the channel."""
        bodies = self.outbox.get(channel)
        if bodies is None:
            bodies = self.outbox[channel] = self.later.pop(channel, [])
        bodies.append(m.encode(message))

    def _send_all(self) -> None:
        outbox, self.outbox = self.outbox, {}
        for channel, bodies in outbox.items():
            try:
                channel.send_many(bodies)
            except WireError:
                channel.abort()

    def _send_later(self) -> None:
        self.outbox, self.later = self.later, {}
        self._send_all()

    def _awake(self) -> float:
        """The time, at which we listen."""
        now_s, volatile = self.clock.now_s(), self.state.volatile
        self.listening.goes_on(now_s, chain(volatile.pulses.values(), volatile.nodes.values()))
        return now_s

    async def _tick(self) -> None:
        deserted_s = self.clock.now_s()
        while True:
            now_s = self.clock.now_s()
            wake_s = core.wake_s(self.state, now_s)
            await asyncio.sleep(0.25 if wake_s is None else min(0.25, max(0.005, wake_s - now_s)))
            now_s = self._awake()
            if wake_s is not None and now_s >= wake_s:
                self._take(s.Tick())
            if self.clients:
                deserted_s = now_s
            elif self.embedded and now_s - deserted_s > IDLE_S:
                self.stopping.set()

    def _take(self, stimulus: s.Stimulus) -> None:
        """What did not come over a channel."""
        if not self.inbox:
            asyncio.get_running_loop().call_soon(self._flush)
        self.inbox.append(stimulus)

    # -- channels

    def _on_channel(self, channel: wire.Channel) -> None:
        if channel.role not in LIMITS or channel.kind != "control":
            raise WireError("nobody speaks to a pool like that")
        channel.accept_frames(LIMITS[channel.role])
        channel.after_read = self._flush

    def _on_message(self, channel: wire.Channel, body: bytes, payload: memoryview | None) -> None:
        try:
            message = m.decode("to", body)
            m.check_role(channel.role, message)
            if isinstance(message, (s.ClientUp, s.NodeUp, s.SlotUp)):
                self._introduce(channel, message)
            else:
                self._check_identity(channel, message)
        except WireError as error:
            self._on_refused(f"{channel.role} {channel.peer}", str(error))
            channel.abort()
            return
        if isinstance(message, m.Ask):
            self.questions.append((channel, message))
        else:
            self.inbox.append(message)

    def _introduce(self, channel: wire.Channel, message: s.ClientUp | s.NodeUp | s.SlotUp) -> None:
        """From now on the channel speaks for whom it said first."""
        if isinstance(message, s.ClientUp):
            who, table = (message.session, ""), self.clients
        elif isinstance(message, s.NodeUp):
            who, table = (message.node, ""), self.nodes
        else:
            who, table = (message.slot, message.incarnation), self.slots
        if self.speaks.setdefault(channel, who) != who:
            raise WireError("one connection speaks for one client, node or slot")
        if not isinstance(message, s.NodeUp) and message.near:
            self.near.add(channel)
        old = table.get(who[0])
        if old is not channel:
            table[who[0]] = channel
            if old is not None:
                old.abort()

    def _check_identity(self, channel: wire.Channel, message: Any) -> None:
        who = self.speaks.get(channel)
        if who is None:
            raise WireError(f"a {channel.role} says who it is before all else")
        name = getattr(message, "session" if channel.role == "client" else "slot", who[0])
        if channel.role != "node" and name != who[0]:
            raise WireError(f"a {channel.role} speaks for itself")

    def _on_close(self, channel: wire.Channel, error: Exception | None) -> None:
        self.near.discard(channel)
        who = self.speaks.pop(channel, None)
        if who is None:
            return
        name, incarnation = who
        if channel.role == "client" and self.clients.get(name) is channel:
            del self.clients[name]
            self._take(s.ClientLost(name))
        elif channel.role == "node" and self.nodes.get(name) is channel:
            del self.nodes[name]
            self._take(s.NodeLost(name))
        elif channel.role == "slot" and self.slots.get(name) is channel:
            del self.slots[name]
            self._take(s.SlotLost(name, incarnation))

    def _on_refused(self, peer: str, reason: str) -> None:
        self._take(s.Refused(str(peer), reason))
