"""Signs of life on a thread and a connection of their own: neither torch nor bulk data holds them up (I6)."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

from plesio.core import stimuli as s
from plesio.errors import PlesioError, WireError
from plesio.runtime.peer import keep_connected
from plesio.wire import channel as wire
from plesio.wire import messages as m
from plesio.wire.tls import Tls

BEAT_S = 0.25


class Heart:
    """Owns the thread and its loop. `who` says (name, generation, incarnation) just now; generation 0: not a member yet."""

    def __init__(
        self,
        coordinator: tuple[str, int],
        token: str,
        who: Callable[[], tuple[str, int, str]],
        tls: Tls | None = None,
    ) -> None:
        self.coordinator = coordinator
        self.token = token
        self.tls = tls
        self.who = who
        self._channel: wire.Channel | None = None
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="plesio-heart", daemon=True)

    def start(self) -> None:
        """Begins to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, within two seconds."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(2.0)

    def _run(self) -> None:
        with contextlib.suppress(PlesioError):  # a refused token: the link says so
            self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        connection = keep_connected(
            *self.coordinator, self.token, "learner", self._on_connected, self._ignore, "beat", self._on_lost, self.tls
        )
        tasks = [asyncio.create_task(x) for x in (connection, self._beat(), self._stop.wait())]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    def _on_connected(self, channel: wire.Channel) -> None:
        self._channel = channel

    def _on_lost(self) -> None:
        self._channel = None

    def _ignore(self, channel: wire.Channel, body: bytes, payload: memoryview | None) -> None:
        """Nobody answers a beat."""

    async def _beat(self) -> None:
        while True:
            name, generation, incarnation = self.who()
            if generation and self._channel is not None:
                with contextlib.suppress(WireError):
                    self._channel.send(m.encode(s.Beat(name, generation, incarnation)))
            await asyncio.sleep(BEAT_S)
