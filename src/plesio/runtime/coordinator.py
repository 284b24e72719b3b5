"""The coordinator process: the I/O driver of the core. It decides nothing: it journals facts and carries out effects.

It holds no torch, and may be killed at any instruction.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import msgspec

from plesio.clock import Clock, SystemClock
from plesio.core import coordinator as core
from plesio.core import effects as e
from plesio.core import facts as f
from plesio.core import stimuli as s
from plesio.core.spec import RunSpec
from plesio.core.turn import State
from plesio.errors import PlesioError, WireError
from plesio.launchers.base import inherited_socket
from plesio.reporting.events import event_line, last_seq
from plesio.runtime.journal import Journal
from plesio.runtime.status import StatusBoard
from plesio.stores.sqlite import SqliteStore
from plesio.wire import channel as wire
from plesio.wire import messages as m

BATCH = 256


class Coordinator:
    """Owns the state, the journal and the peers' control channels."""

    def __init__(self, run_dir: Path, spec: RunSpec, token: str, clock: Clock) -> None:
        self.run_dir = run_dir
        self.spec = spec
        self.token = token
        self.clock = clock
        self.state = State()
        self.board = StatusBoard()
        self.peers: dict[str, wire.Channel] = {}  # by name: a learner's, 'synchronizer', 'launcher'
        self.synchronizer_at: m.SynchronizerAt | None = None
        self.inbox: asyncio.Queue[s.Stimulus] = asyncio.Queue(maxsize=100_000)
        self.journal: Journal | None = None
        self.events: TextIO | None = None
        self.metrics: TextIO | None = None
        self.stopping = asyncio.Event()

    async def run(self, listener: socket.socket) -> None:
        """Recovers, serves, and returns when told to stop."""
        store = SqliteStore(self.run_dir / "journal.db")
        await store.open()
        self.journal = Journal(store, await store.elect(f"pid-{os.getpid()}", 0.0, time.time()))
        self.state.durable, batches = await self.journal.load()
        self._open_logs(batches)
        effects = core.recover(self.state, self.clock.now_s())
        server = await wire.serve(
            listener,
            token=self.token,
            on_channel=self._on_channel,
            on_message=self._on_message,
            on_close=self._on_close,
            on_refused=self._on_refused,
        )
        await self._handle([s.TakeLead(self.journal.epoch), s.StartRun(self.spec)])
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

    def _open_logs(self, batches: list[tuple[int, float, list[f.Fact]]]) -> None:
        path = self.run_dir / "events.jsonl"
        seen = last_seq(path)
        self.events = path.open("a", encoding="utf-8")
        for seq, unix_s, facts in batches:
            if seq > seen:
                self._log_facts(seq, unix_s, facts)
        for _, unix_s, facts in batches:
            self.board.note(facts, unix_s)
        started = {"type": "CoordinatorStarted", "unix_s": time.time(), "pid": os.getpid()}
        self.events.write(json.dumps(started) + "\n")
        self.events.flush()
        self.metrics = (self.run_dir / "metrics.jsonl").open("a", encoding="utf-8")

    def _log_facts(self, seq: int, unix_s: float, facts: list[f.Fact]) -> None:
        assert self.events is not None
        self.events.write("".join(event_line(seq, unix_s, fact) + "\n" for fact in facts))
        self.events.flush()

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
        now_s = self.clock.now_s()
        for stimulus in batch:
            some_facts, some_effects = core.handle(self.state, now_s, stimulus)
            facts += some_facts
            effects += some_effects
        if facts:
            unix_s = time.time()
            await self.journal.commit(unix_s, facts, self.state.durable)
            self._log_facts(self.journal.seq, unix_s, facts)
            self.board.note(facts, unix_s)
        self._carry_out(effects)

    def _carry_out(self, effects: list[e.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, e.EndRun):
                for name in list(self.peers):
                    self._send(name, effect)
            elif isinstance(effect, e.TO_SYNCHRONIZER):
                self._send("synchronizer", effect)
            else:
                to: str = effect.to  # type: ignore[attr-defined]
                self._send(to, effect)
                if isinstance(effect, e.AnswerPush):
                    self._send("synchronizer", effect)
                if isinstance(effect, e.Welcome) and self.synchronizer_at is not None:
                    self._send(to, self.synchronizer_at)

    def _send(self, name: str, message: msgspec.Struct) -> None:
        channel = self.peers.get(name)
        if channel is not None:
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
            now_s = self.clock.now_s()
            if wake_s is not None and now_s >= wake_s:
                await self._enqueue(s.Tick())
            if now_s - written_s >= 1.0:
                written_s = now_s
                self._write_metrics()
            if "launcher" in self.peers and now_s - self.board.sent_s >= 0.5:
                self.board.sent_s = now_s
                self._send("launcher", self.board.status(self.state, now_s))

    async def _enqueue(self, stimulus: s.Stimulus) -> None:
        await self.inbox.put(stimulus)

    def _write_metrics(self) -> None:
        line = self.board.metrics_line(self.state, self._control_bytes())
        if self.metrics is not None and line:
            self.metrics.write(line + "\n")
            self.metrics.flush()

    def _control_bytes(self) -> int:
        return self.board.closed_control_bytes + sum(c.bytes_sent + c.bytes_received for c in self.peers.values())

    def _on_channel(self, channel: wire.Channel) -> None:
        """Authenticated; who it is comes with its first message."""

    def _on_message(self, channel: wire.Channel, body: Any, payload: memoryview | None) -> None:
        try:
            message = m.decode("to", body)
            m.check_role(channel.role, message)
        except WireError as error:
            self._on_refused(f"{channel.role} {channel.peer}", str(error))
            channel.abort()
            return
        name = getattr(message, "name", "") if channel.role == "learner" else channel.role
        if channel.role != "launcher" or isinstance(message, m.Watch):
            old = self.peers.get(name)
            if old is not channel:
                self.peers[name] = channel
                if old is not None:
                    old.abort()
                if channel.role == "learner" and self.synchronizer_at is not None:
                    channel.send(m.encode(self.synchronizer_at))
        if isinstance(message, m.Metrics):
            self.board.measure(message)
        elif isinstance(message, m.Listening):
            self.synchronizer_at = m.SynchronizerAt(message.host, message.port)
            for peer, other in self.peers.items():
                if other.role == "learner":
                    self._send(peer, self.synchronizer_at)
        elif isinstance(message, m.Watch):
            self._send("launcher", self.board.status(self.state, self.clock.now_s()))
        else:
            self._offer(message)

    def _offer(self, stimulus: s.Stimulus) -> None:
        try:
            self.inbox.put_nowait(stimulus)
        except asyncio.QueueFull:
            raise PlesioError("the coordinator's inbox is full; too many peers talk to it") from None

    def _on_close(self, channel: wire.Channel, error: Exception | None) -> None:
        for name, other in list(self.peers.items()):
            if other is channel:
                self.board.closed_control_bytes += channel.bytes_sent + channel.bytes_received
                del self.peers[name]

    def _on_refused(self, peer: str, reason: str) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            self.inbox.put_nowait(s.Refused(str(peer), reason))


def main() -> None:
    """Entry of the process. Its settings come in PLESIO_* variables, its listening socket as an inherited fd."""
    run_dir = Path(os.environ["PLESIO_RUN_DIR"])
    spec = msgspec.json.decode(os.environ["PLESIO_SPEC"], type=RunSpec)
    listener = inherited_socket("listener")
    coordinator = Coordinator(run_dir, spec, os.environ.pop("PLESIO_TOKEN"), SystemClock())

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, coordinator.stopping.set)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        await coordinator.run(listener)

    try:
        asyncio.run(serve())
    except PlesioError as error:
        print(f"coordinator: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
