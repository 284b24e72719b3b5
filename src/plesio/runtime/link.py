"""A learner's connections, on a thread of their own that runs no torch: control and bulk. (Heartbeats: heart.py.)

It reconnects by itself, and then says again what is outstanding. What arrives goes to `on_event`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from plesio.core import stimuli as s
from plesio.errors import PlesioError, WireError
from plesio.records import Version
from plesio.runtime.bulk import Bulk
from plesio.runtime.heart import Heart
from plesio.runtime.peer import keep_connected
from plesio.runtime.tracks import Track
from plesio.wire import channel as wire
from plesio.wire import messages as m
from plesio.wire.parts import Have
from plesio.wire.tls import Tls

METRICS_S = 1.0


class Identity(msgspec.Struct):
    """Who this learner is just now. Replaced by the learner's main thread, read by the link's."""

    name: str
    incarnation: str
    signature: str
    parameters: int
    generation: int = 0
    base: Version | None = None


class Link:
    """Owns the thread, the loop and both channels. Its public methods may be called from any thread."""

    def __init__(
        self,
        coordinator: tuple[str, int],
        token: str,
        identity: Identity,
        on_event: Callable[[Any, memoryview | None], None],
        metrics: Callable[[], m.Metrics],
        tls: Tls | None = None,
    ) -> None:
        self.coordinator = coordinator
        self.token = token
        self.tls = tls
        self.identity = identity
        self.on_event = on_event
        self.metrics = metrics
        self.asked: s.AskUnits | None = None
        self.sends = Track()  # timed spans of sending
        self._heart = Heart(coordinator, token, self._who, tls)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="plesio-link", daemon=True)
        self._control: wire.Channel | None = None
        self._bulk = Bulk(on_event, self._subscription, self.sends)
        self._bulk_task: asyncio.Task[None] | None = None
        self._synchronizer: tuple[str, int] | None = None
        self._farewell: s.Leave | None = None
        self._stop = asyncio.Event()

    def start(self) -> None:
        """Connects, in the background."""
        self._thread.start()
        self._heart.start()

    def _who(self) -> tuple[str, int, str]:
        me = self.identity  # once: it may be replaced just now
        return me.name, me.generation, me.incarnation

    def tell(self, message: msgspec.Struct) -> None:
        """A control message; lost when there is no connection: what matters is said again."""
        self._loop.call_soon_threadsafe(self._tell, message)

    def ask(self, request: s.AskUnits) -> None:
        """Asks for units; asked again after a reconnection until it is answered."""
        self.asked = request
        self.tell(request)

    def leave(self, farewell: s.Leave) -> None:
        """Asks to go; asked again after a reconnection."""

        def ask() -> None:
            self._farewell = farewell
            self._tell(farewell)

        self._loop.call_soon_threadsafe(ask)

    def join_again(self, identity: Identity) -> None:
        """A new incarnation: nothing of the old one is outstanding."""

        def replace() -> None:
            self.identity = identity
            self._bulk.forget()
            self._greet()

        self.asked = None
        self._loop.call_soon_threadsafe(replace)

    def welcome(self) -> None:
        """The identity has its generation: bulk may connect."""
        self._loop.call_soon_threadsafe(self._connect_bulk)

    def push(self, push: m.Push, data: bytes) -> None:
        """Sends a push; sent again on every new bulk connection until settled."""
        self._loop.call_soon_threadsafe(
            self._bulk.put, m.push_id(push.contribution.generation, push.contribution.seq), push, data
        )

    def settle(self, seqs: list[int]) -> None:
        """These pushes need not be sent any more."""
        generation = self.identity.generation
        self._loop.call_soon_threadsafe(self._bulk.settle, [m.push_id(generation, seq) for seq in seqs])

    def upload(self, version: Version, data: bytes) -> None:
        """Sends this learner's state; an older one need not be sent any more."""

        def send() -> None:
            self._bulk.settle([id for id in self._bulk.wanted if m.is_upload(id)])
            message = m.StateUpload(self.identity.name, self.identity.generation, version)
            self._bulk.put(m.upload_id(message.generation, version), message, data)

        self._loop.call_soon_threadsafe(send)

    def stop(self) -> None:
        """Ends the thread, within two seconds."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(2.0)
        self._heart.stop()

    def bytes_moved(self) -> tuple[int, int]:
        """(sent, received) on the bulk channel that is open now."""
        bulk = self._bulk.channel
        return (bulk.bytes_sent, bulk.bytes_received) if bulk is not None else (0, 0)

    def bytes_per_s(self) -> float:
        """That the bulk channel carried to the synchronizer of late; 0: not known yet."""
        return self._bulk.bytes_per_s

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except PlesioError as error:
            self.on_event(error, None)

    async def _serve(self) -> None:
        host, port = self.coordinator
        control = keep_connected(
            host, port, self.token, "learner", self._on_connected, self._on_control,
            on_lost=self._on_lost, tls=self.tls,
        )  # fmt: skip
        tasks = [asyncio.create_task(t) for t in (control, self._measure(), self._bulk.pump())]
        stop = asyncio.create_task(self._stop.wait())
        done, _ = await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
        self._tell_metrics()
        for task in (*tasks, stop, *([self._bulk_task] if self._bulk_task else [])):
            task.cancel()
        for task in done:
            if task is not stop:
                task.result()

    def _tell(self, message: msgspec.Struct) -> None:
        if self._control is not None:
            with contextlib.suppress(WireError):
                self._control.send(m.encode(message))

    def _on_connected(self, channel: wire.Channel) -> None:
        self._control = channel
        self._greet()

    def _greet(self) -> None:
        """Who I am, and what I wait for."""
        me = self.identity
        if me.base is None:
            self._tell(s.Join(me.name, me.incarnation, me.signature, me.parameters))
        else:
            self._tell(s.Hold(me.name, me.generation, me.base, me.incarnation))
        if self.asked is not None and self.asked.generation == me.generation:
            self._tell(self.asked)
        if self._farewell is not None:
            self._tell(self._farewell)

    def _on_lost(self) -> None:
        self._control = None

    def _on_control(self, channel: wire.Channel, body: Any, payload: memoryview | None) -> None:
        message = m.decode("from", body)
        if isinstance(message, m.SynchronizerAt):
            anywhere = message.host in ("0.0.0.0", "::")  # noqa: S104  it is where the coordinator is
            self._synchronizer = (self.coordinator[0] if anywhere else message.host, message.port)
            self._connect_bulk()
        else:
            self.on_event(message, None)

    def _connect_bulk(self) -> None:
        if self._synchronizer is None or not self.identity.generation or self._bulk_task is not None:
            return
        host, port = self._synchronizer
        bulk = self._bulk
        connection = keep_connected(
            host, port, self.token, "learner", bulk.connected, bulk.on_frame, "bulk", bulk.lost, self.tls
        )
        self._bulk_task = self._loop.create_task(connection)
        self._bulk_task.add_done_callback(self._bulk_ended)

    def _bulk_ended(self, task: asyncio.Task[None]) -> None:
        """Turned away for good: the main thread has to hear of it."""
        if not task.cancelled() and isinstance(error := task.exception(), PlesioError):
            self.on_event(error, None)

    def _subscription(self, have: Have) -> m.Subscribe:
        me = self.identity
        return m.Subscribe(me.name, me.generation, me.base, me.incarnation, have)

    async def _measure(self) -> None:
        while True:
            await asyncio.sleep(METRICS_S)
            self._tell_metrics()

    def _tell_metrics(self) -> None:
        if self.identity.generation and self._control is not None:  # timed spans wait for a connection
            self._tell(self.metrics())
