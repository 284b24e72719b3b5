"""The coordinator process: the I/O driver of the core. It decides nothing: it journals facts and carries out effects.

It holds no torch, and may be killed at any instruction.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from plesio.clock import Clock, SystemClock
from plesio.core import coordinator as core
from plesio.core import effects as e
from plesio.core import facts as f
from plesio.core import stimuli as s
from plesio.core.membership import Listening
from plesio.core.spec import RunSpec
from plesio.core.state import Durable
from plesio.core.turn import State
from plesio.errors import PlesioError, WireError
from plesio.launchers.base import inherited_socket
from plesio.reporting.eventlog import EventLog
from plesio.reporting.samples import SampleLog
from plesio.reporting.spans import SpanLog
from plesio.runtime.journal import RUN, Journal
from plesio.runtime.seats import Bound
from plesio.runtime.status import StatusBoard
from plesio.stores.sqlite import SqliteStore
from plesio.version import VERSION
from plesio.wire import channel as wire
from plesio.wire import messages as m
from plesio.wire import server as serving
from plesio.wire.frames import Limits
from plesio.wire.tls import Tls, from_environment

BATCH = 256
LIMITS = {  # what each role may announce, once it is authenticated: control needs no payloads
    "learner": Limits(1 << 20, 0),
    "synchronizer": Limits(16 << 20, 0),
    "launcher": Limits(1 << 16, 0),
    "joiner": Limits(1 << 16, 0),
    "viewer": Limits(4096, m.PROBE_BYTES),
}


class Coordinator:
    """Owns the state, the journal and the peers' control channels. gather: see StartRun."""

    def __init__(
        self, run_dir: Path, spec: RunSpec, token: str, clock: Clock, tls: Tls | None = None, gather: bool = False
    ) -> None:
        self.gather = gather
        self.run_dir = run_dir
        self.spec = spec
        self.token = token
        self.tls = tls
        self.clock = clock
        self.state = State()
        self.board = StatusBoard()
        self.bound = Bound()
        self.peers: dict[str, wire.Channel] = {}  # by name: a learner's, or 'synchronizer'
        self.watchers: set[wire.Channel] = set()
        self.channels: set[wire.Channel] = set()
        self.synchronizer_at: m.SynchronizerAt | None = None
        self.inbox: asyncio.Queue[s.Stimulus] = asyncio.Queue(maxsize=100_000)
        self.journal: Journal[f.Fact, Durable] | None = None
        self.events = EventLog(run_dir)
        self.samples = SampleLog(run_dir)
        self.spans = SpanLog(run_dir)
        self.stopping = asyncio.Event()
        self.listening = Listening()

    async def run(self, listener: socket.socket) -> None:
        """Recovers, serves, and returns when told to stop."""
        store = SqliteStore(self.run_dir / "journal.db")
        await store.open()
        self.journal = Journal(store, await store.elect(f"pid-{os.getpid()}", 0.0, time.time()), RUN)
        self.state.durable, batches = await self.journal.load()
        self._open_logs(batches, self.journal.seq)
        effects = core.recover(self.state, self.clock.now_s())
        await self._handle([s.TakeLead(self.journal.epoch), s.StartRun(self.spec, self.gather)])
        server = await serving.serve(
            listener,
            token=self.token,
            on_channel=self._on_channel,
            on_message=self._on_message,
            on_close=self._on_close,
            on_refused=self._on_refused,
            tls=self.tls,
        )
        self._carry_out(effects)
        tasks = [asyncio.create_task(self._consume()), asyncio.create_task(self._tick())]
        stop = asyncio.create_task(self.stopping.wait())
        done, _ = await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
        for task in (*tasks, stop):
            task.cancel()
        self._write_metrics()
        await server.close()
        await store.close()
        for task in done:
            if task is not stop:
                task.result()

    def _open_logs(self, batches: list[tuple[int, float, list[f.Fact]]], newest: int) -> None:
        self.events.open(batches, newest)
        for _, unix_s, facts in batches:
            self.board.note(facts, unix_s)

    async def _consume(self) -> None:
        while True:
            batch = [await self.inbox.get()]
            while len(batch) < BATCH and not self.inbox.empty():
                batch.append(self.inbox.get_nowait())
            await self._handle(batch)

    async def _handle(self, batch: list[s.Stimulus]) -> None:
        """One batch: decide, journal, act; in that order."""
        assert self.journal is not None
        facts: list[f.Fact] = []
        effects: list[e.Effect] = []
        now_s = self._awake()
        for stimulus in batch:
            some_facts, some_effects = core.handle(self.state, now_s, stimulus)
            facts += some_facts
            effects += some_effects
        if facts:
            unix_s = time.time()
            await self.journal.commit(unix_s, facts)
            self.events.add(self.journal.seq, unix_s, facts)
            await self._keep_small()
            self.board.note(facts, unix_s)
        self._carry_out(effects)
        for fact in facts:
            if isinstance(fact, f.VersionCommitted):
                self._send("synchronizer", m.Committed(fact.snapshot))

    def _awake(self) -> float:
        """The time, at which we listen."""
        now_s = self.clock.now_s()
        self.listening.goes_on(now_s, self.state.volatile.pulses.values())
        return now_s

    async def _keep_small(self) -> None:
        """Of what was told already, the older part goes."""
        assert self.journal is not None
        self.events.thin_if_large(self.state.durable)
        await self.journal.compact(self.state.durable, self.events.written)

    async def _catch_up(self) -> None:
        """What a full disk kept out of events.jsonl is told once there is room again."""
        if not self.events.trouble or self.journal is None:
            return
        self.events.catch_up(await self.journal.since(self.events.written))
        if self.board.trouble != self.events.trouble:
            self.board.trouble = self.events.trouble
            said = self.board.trouble or f"{self.events.path} has all facts again"
            with contextlib.suppress(OSError):
                print(f"coordinator: {said}", file=sys.stderr, flush=True)

    def _carry_out(self, effects: list[e.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, e.EndRun):
                for channel in {*self.peers.values(), *self.watchers}:
                    self._send_to(channel, effect)
                for channel in list(self.watchers):  # we may have ended before the next one is due
                    self._send_to(channel, self.board.status(self.state, self.clock.now_s()))
            elif isinstance(effect, e.TO_SYNCHRONIZER):
                self._send("synchronizer", effect)
            else:
                to: str = effect.to  # type: ignore[attr-defined]
                self._send(to, effect)
                if isinstance(effect, (e.AnswerPush, e.DonateState)):
                    self._send("synchronizer", effect)
                if isinstance(effect, e.Welcome) and self.synchronizer_at is not None:
                    self._send(to, self.synchronizer_at)

    def _send(self, name: str, message: msgspec.Struct) -> None:
        channel = self.peers.get(name)
        if channel is not None:
            self._send_to(channel, message)

    def _send_to(self, channel: wire.Channel, message: msgspec.Struct) -> None:
        try:
            channel.send(m.encode(message))
        except WireError:
            channel.abort()

    async def _tick(self) -> None:
        written_s = 0.0
        while True:
            now_s = self.clock.now_s()
            wake_s = core.wake_s(self.state, now_s)
            pause_s = 0.25 if wake_s is None else min(0.25, max(0.005, wake_s - now_s))
            await asyncio.sleep(pause_s)
            now_s = self._awake()
            if wake_s is not None and now_s >= wake_s:
                await self._enqueue(s.Tick())
            if now_s - written_s >= 1.0:
                written_s = now_s
                self._write_metrics()
                await self._catch_up()
            if self.watchers and now_s - self.board.sent_s >= 0.5:
                self.board.sent_s = now_s
                for channel in list(self.watchers):
                    self._send_to(channel, self.board.status(self.state, now_s))

    async def _enqueue(self, stimulus: s.Stimulus) -> None:
        await self.inbox.put(stimulus)

    def _write_metrics(self) -> None:
        line = self.board.metrics_line(self.state, self._control_bytes())
        if line:
            self.samples.append(line)

    def _control_bytes(self) -> int:
        return self.board.closed_control_bytes + sum(c.bytes_sent + c.bytes_received for c in self.channels)

    def _on_channel(self, channel: wire.Channel) -> None:
        """Authenticated; who it is comes with its first message."""
        self.channels.add(channel)
        if channel.role not in LIMITS or channel.kind == "bulk":
            raise WireError("nobody speaks to the coordinator like that")
        channel.accept_frames(LIMITS[channel.role])

    def _on_message(self, channel: wire.Channel, body: Any, payload: memoryview | None) -> None:
        message: Any = None
        try:
            message = m.decode("to", body)
            m.check_role(channel.role, message)
            name = self._name(channel, message)
        except WireError as error:
            self._on_refused(f"{channel.role} {channel.peer}", str(error))
            if channel.role == "learner" and isinstance(message, (s.Join, s.Hold)):
                self._send_to(channel, e.Refuse(message.name, message.incarnation, str(error)))
                channel.close()
            else:
                channel.abort()
            return
        if channel.kind == "beat":
            self._offer(message)
            return
        if name:
            old = self.peers.get(name)
            if old is not channel:
                self.peers[name] = channel
                if old is not None:
                    old.abort()
                if channel.role == "learner" and self.synchronizer_at is not None:
                    channel.send(m.encode(self.synchronizer_at))
        if isinstance(message, m.Metrics):
            self.board.measure(message)
            self.spans.append(message.name, message.generation, message.timings)
        elif isinstance(message, m.Listening):
            self.synchronizer_at = m.SynchronizerAt(message.host, message.port)
            for peer, other in self.peers.items():
                if other.role == "learner":
                    self._send(peer, self.synchronizer_at)
        elif isinstance(message, m.Watch):
            self.watchers.add(channel)
            self._send_to(channel, self.board.status(self.state, self.clock.now_s()))
        elif isinstance(message, m.Probe):
            self._answer_probe(channel, message)
        else:
            self._offer(message)

    def _name(self, channel: wire.Channel, message: Any) -> str:
        """Under which name this is said; '' for roles that have none. Raises WireError when it may not be."""
        if channel.kind == "beat" and not isinstance(message, s.Beat):
            raise WireError(f"a beat's connection is not for {type(message).__name__}")
        if channel.role == "synchronizer":
            if getattr(message, "name", channel.role) != channel.role:
                raise WireError("a synchronizer speaks for itself")
            return channel.role
        if channel.role != "learner":
            return ""
        other = self.peers.get(message.name)
        pulse = self.state.volatile.pulses.get(message.name)
        alive = pulse is not None and not pulse.suspected(self.clock.now_s())
        taken = alive and other is not None and other is not channel and channel.kind == "control"
        durable = self.state.durable
        return self.bound.admit(channel, message, durable.members.get(message.name), taken, durable.forgotten)

    def _answer_probe(self, channel: wire.Channel, probe: m.Probe) -> None:
        """What a viewer may ask of us is bounded: one probe at a time, so that its answers never pile up here."""
        sized = 0 <= probe.size_bytes <= m.PROBE_BYTES
        if not sized or channel.unsent_bytes:
            reason = "one probe at a time" if sized else f"a probe is of {m.PROBE_BYTES} bytes at most"
            self._on_refused(f"{channel.role} {channel.peer}", reason)
            channel.abort()
            return
        answer = m.Probed(probe.number, time.time(), VERSION, self.spec.run, self.synchronizer_at)
        with contextlib.suppress(WireError):
            channel.send(m.encode(answer), _noise()[: probe.size_bytes])

    def _offer(self, stimulus: s.Stimulus) -> None:
        try:
            self.inbox.put_nowait(stimulus)
        except asyncio.QueueFull:
            raise WireError("the coordinator's inbox is full; too many peers talk to it") from None

    def _on_close(self, channel: wire.Channel, error: Exception | None) -> None:
        self.channels.discard(channel)
        self.watchers.discard(channel)
        self.bound.gone(channel)
        self.board.closed_control_bytes += channel.bytes_sent + channel.bytes_received
        for name, other in list(self.peers.items()):
            if other is channel:
                del self.peers[name]

    def _on_refused(self, peer: str, reason: str) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            self.inbox.put_nowait(s.Refused(str(peer), reason))


@functools.cache
def _noise() -> memoryview:
    """What probes are answered with: a link that compresses must not look fast."""
    return memoryview(os.urandom(m.PROBE_BYTES))


def main() -> None:
    """Entry of the process. Its settings come in PLESIO_* variables, its listening socket as an inherited fd."""
    run_dir = Path(os.environ["PLESIO_RUN_DIR"])
    spec = msgspec.json.decode(os.environ["PLESIO_SPEC"], type=RunSpec)
    listener = inherited_socket("listener")

    async def serve() -> None:
        token, tls = os.environ.pop("PLESIO_TOKEN"), from_environment(serves=True)
        coordinator = Coordinator(run_dir, spec, token, SystemClock(), tls, "PLESIO_GATHER" in os.environ)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, coordinator.stopping.set)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        await coordinator.run(listener)

    try:
        asyncio.run(serve())
    except PlesioError as error:
        print(f"coordinator: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
